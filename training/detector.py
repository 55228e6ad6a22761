"""Read a picture of the shapes world back into a scene, deterministically.

Background: the commonest palette colour on the border. A thing: a connected region that differs from the
background, its colour that of its core, its shape the outline whose rendering overlaps it best. A region that
matches no outline well is reported with shape "unknown", so that strict scoring counts it as a mistake.

Shapes: H, W picture rows and columns, N palette colours.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from training.world import OUTLINES, PALETTE, RADII, SHAPES, Scene, Thing

UNKNOWN = "unknown"
MIN_AREA = 12.0
"""Covered pixels below which a region is dirt; the smallest thing covers about 45."""
MIN_OVERLAP = 0.72
"""Soft intersection over union below which a region has no known shape."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Limits:
    """What still counts as a region: tested on clean renderings and on noise in tests/training."""

    min_area: float = MIN_AREA
    min_overlap: float = MIN_OVERLAP


def detect(picture: Image.Image, limits: Limits | None = None) -> Scene:
    """Read a picture into a scene; things are sorted by row, then column, of their centres."""
    limits = limits or Limits()
    pixels_HW3 = np.asarray(picture.convert("RGB"), dtype=np.float32)
    names = list(PALETTE)
    colours_N3 = np.array([PALETTE[name] for name in names], dtype=np.float32)
    border_B3 = np.concatenate([pixels_HW3[0], pixels_HW3[-1], pixels_HW3[:, 0], pixels_HW3[:, -1]])
    nearest_B = np.linalg.norm(border_B3[:, None] - colours_N3, axis=-1).argmin(-1)
    background = names[int(np.bincount(nearest_B).argmax())]
    ground_3 = np.median(border_B3[nearest_B == names.index(background)], axis=0)
    difference_HW = np.linalg.norm(pixels_HW3 - ground_3, axis=-1)
    labels_HW, count = ndimage.label(difference_HW > 36.0, structure=np.ones((3, 3)))
    things = []
    for label in range(1, count + 1):
        region_HW = labels_HW == label
        thing = _read_region(pixels_HW3, region_HW, difference_HW, ground_3, (names, colours_N3), limits)
        if thing is not None:
            things.append(thing)
    things.sort(key=lambda thing: (thing.y, thing.x))
    return Scene(background, tuple(things), picture.width, picture.height)


def _read_region(
    pixels_HW3: Floats,
    region_HW: NDArray[np.bool_],
    difference_HW: Floats,
    ground_3: Floats,
    palette: tuple[list[str], Floats],
    limits: Limits,
) -> Thing | None:
    core_HW = region_HW & (difference_HW >= 0.8 * np.percentile(difference_HW[region_HW], 90))
    core_3 = np.median(pixels_HW3[core_HW], axis=0)
    names, colours_N3 = palette
    colour = names[int(np.linalg.norm(colours_N3 - core_3, axis=-1).argmin())]
    axis_3 = core_3 - ground_3
    near_HW = ndimage.binary_dilation(region_HW)
    mask_HW = np.clip((pixels_HW3 - ground_3) @ axis_3 / max(float(axis_3 @ axis_3), 1.0), 0, 1) * near_HW
    area = float(mask_HW.sum())
    if area < limits.min_area:
        return None
    rows, columns = np.indices(mask_HW.shape, dtype=np.float32)
    x = float((mask_HW * (columns + 0.5)).sum()) / area
    y = float((mask_HW * (rows + 0.5)).sum()) / area
    overlaps = {shape: _overlap(mask_HW, shape, x, y, area) for shape in SHAPES}
    shape = max(overlaps, key=lambda name: overlaps[name])
    radius = math.sqrt(area / _outline_area(shape))
    size = "small" if radius < sum(RADII.values()) / 2 else "large"
    centre_x, centre_y = _outline_centroid(shape)
    if overlaps[shape] < limits.min_overlap:
        shape = UNKNOWN
    return Thing(shape, colour, size, x - centre_x * radius, y - centre_y * radius, radius)


def _overlap(mask_HW: Floats, shape: str, x: float, y: float, area: float) -> float:
    radius = math.sqrt(area / _outline_area(shape))
    centre_x, centre_y = _outline_centroid(shape)
    drawn_HW = _drawn(shape, x - centre_x * radius, y - centre_y * radius, radius, mask_HW.shape)
    return float(np.minimum(mask_HW, drawn_HW).sum() / np.maximum(mask_HW, drawn_HW).sum())


def _drawn(shape: str, x: float, y: float, radius: float, size: tuple[int, ...], scale: int = 4) -> Floats:
    canvas = Image.new("L", (size[1] * scale, size[0] * scale), 0)
    corners = [
        ((x + dx * radius) * scale - 0.5, (y + dy * radius) * scale - 0.5) for dx, dy in OUTLINES[shape]
    ]
    ImageDraw.Draw(canvas).polygon(corners, fill=255)
    return np.asarray(canvas.reduce(scale), dtype=np.float32) / 255


@lru_cache
def _outline_area(shape: str) -> float:
    corners = OUTLINES[shape]
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in _edges(corners))) / 2


@lru_cache
def _outline_centroid(shape: str) -> tuple[float, float]:
    corners = OUTLINES[shape]
    doubled = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in _edges(corners))
    x = sum((x0 + x1) * (x0 * y1 - x1 * y0) for (x0, y0), (x1, y1) in _edges(corners))
    y = sum((y0 + y1) * (x0 * y1 - x1 * y0) for (x0, y0), (x1, y1) in _edges(corners))
    return x / (3 * doubled), y / (3 * doubled)


def _edges(
    corners: tuple[tuple[float, float], ...],
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    return list(zip(corners, (*corners[1:], corners[0]), strict=True))
