"""Read a picture of the shapes world back into a scene, deterministically.

Background: the commonest palette colour on the border. A thing: a connected region that differs from the
background, its colour that of its core, its shape the outline whose rendering overlaps it best. A region that
matches no outline well is reported with shape "unknown", so that strict scoring counts it as a mistake.

Shapes: H, W picture rows and columns, B border pixels, N palette colours.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from training.world import OUTLINES, PALETTE, RADII, SHAPES, Scene, Thing

UNKNOWN = "unknown"
MIN_DIFFERENCE = 36.0
"""Distance in RGB beyond which a pixel is not background."""
MIN_AREA = 12.0
"""Covered pixels below which a region is dirt; the smallest thing covers about 45."""
MIN_OVERLAP = 0.72
"""Soft intersection over union below which a region has no known shape."""

NAMES = list(PALETTE)
COLOURS_N3 = np.array([PALETTE[name] for name in NAMES], dtype=np.float32)

Floats = NDArray[np.float32]
Point = tuple[float, float]
Outline = tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture, its background's colour, and how far each pixel lies from that colour."""

    pixels_HW3: Floats
    background: str
    ground_3: Floats
    difference_HW: Floats

    @classmethod
    def of(cls, picture: Image.Image) -> Self:
        """Take the commonest palette colour on the border for the background."""
        pixels_HW3 = np.asarray(picture.convert("RGB"), dtype=np.float32)
        border_B3 = np.concatenate([pixels_HW3[0], pixels_HW3[-1], pixels_HW3[:, 0], pixels_HW3[:, -1]])
        nearest_B = np.linalg.norm(border_B3[:, None] - COLOURS_N3, axis=-1).argmin(-1)
        commonest = int(np.bincount(nearest_B).argmax())
        ground_3 = np.median(border_B3[nearest_B == commonest], axis=0)
        difference_HW = np.linalg.norm(pixels_HW3 - ground_3, axis=-1)
        return cls(pixels_HW3, NAMES[commonest], ground_3, difference_HW)


@dataclass(frozen=True, slots=True)
class Fit:
    """An outline laid over a region so that areas and centroids agree."""

    shape: str
    x: float
    y: float
    radius: float
    overlap: float


def detect(picture: Image.Image) -> Scene:
    """Read a picture into a scene; things are sorted by row, then column, of their centres."""
    seen = Seen.of(picture)
    labels_HW, count = ndimage.label(seen.difference_HW > MIN_DIFFERENCE, structure=np.ones((3, 3)))
    read = (_read_region(seen, labels_HW == label) for label in range(1, count + 1))
    things = sorted((thing for thing in read if thing is not None), key=lambda thing: (thing.y, thing.x))
    return Scene(seen.background, tuple(things), picture.width, picture.height)


def _read_region(seen: Seen, region_HW: NDArray[np.bool_]) -> Thing | None:
    difference_HW = seen.difference_HW
    core_HW = region_HW & (difference_HW >= 0.8 * np.percentile(difference_HW[region_HW], 90))
    core_3 = np.median(seen.pixels_HW3[core_HW], axis=0)
    colour = NAMES[int(np.linalg.norm(COLOURS_N3 - core_3, axis=-1).argmin())]
    mask_HW = _coverage(seen, core_3) * ndimage.binary_dilation(region_HW)
    if float(mask_HW.sum()) < MIN_AREA:
        return None
    best = max((_fit(mask_HW, shape) for shape in SHAPES), key=lambda fit: fit.overlap)
    shape = best.shape if best.overlap >= MIN_OVERLAP else UNKNOWN
    size = "small" if best.radius < sum(RADII.values()) / 2 else "large"
    return Thing(shape, colour, size, best.x, best.y, best.radius)


def _coverage(seen: Seen, colour_3: Floats) -> Floats:
    """Return the share of each pixel that a thing of this colour covers."""
    axis_3 = colour_3 - seen.ground_3
    square = np.float32(max(float(axis_3 @ axis_3), 1.0))
    return np.clip((seen.pixels_HW3 - seen.ground_3) @ axis_3 / square, 0, 1)


def _fit(mask_HW: Floats, shape: str) -> Fit:
    area = float(mask_HW.sum())
    rows, columns = np.indices(mask_HW.shape, dtype=np.float32)
    radius = math.sqrt(area / _outline_area(shape))
    centre_x, centre_y = _outline_centroid(shape)
    x = float((mask_HW * (columns + 0.5)).sum()) / area - centre_x * radius
    y = float((mask_HW * (rows + 0.5)).sum()) / area - centre_y * radius
    drawn_HW = _drawn(OUTLINES[shape], (x, y), radius, mask_HW.shape)
    overlap = float(np.minimum(mask_HW, drawn_HW).sum() / np.maximum(mask_HW, drawn_HW).sum())
    return Fit(shape, x, y, radius, overlap)


def _drawn(outline: Outline, centre: Point, radius: float, size: tuple[int, ...]) -> Floats:
    """Draw an outline filled, anti-aliased as the world's pictures are."""
    scale = 4
    canvas = Image.new("L", (size[1] * scale, size[0] * scale), 0)
    x, y = centre
    corners = [((x + dx * radius) * scale - 0.5, (y + dy * radius) * scale - 0.5) for dx, dy in outline]
    ImageDraw.Draw(canvas).polygon(corners, fill=255)
    return np.asarray(canvas.reduce(scale), dtype=np.float32) / np.float32(255)


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


def _edges(corners: Outline) -> list[tuple[Point, Point]]:
    return list(zip(corners, (*corners[1:], corners[0]), strict=True))
