"""An invisible mark in the pixels that says "made by hbridge": it survives JPEG and resizing, proves nothing.

The picture's luma is averaged over 8x8 cells that cover it, and each average is moved to the nearest value of
a lattice that is the cell's own. A reader sees how closely the averages keep to their lattices; those of
other pictures lie anywhere. Cells scale with the picture, and an average outlives what JPEG does to pixels.

Everybody can read the code, so everybody can write or remove the mark: what is certain is in the signature.

Shapes: H and W pixels, C = 8 cells along a side.

Source: quantisation index modulation with dither; Chen and Wornell 2001, IEEE Transactions on Information
Theory 47(4), section V.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CELLS = 8
SMALL_STEP, STEP = 4.5, 3.0
"""Between two values of a lattice, in grey levels of 255; a cell moves by half of it at most, away
from black and white."""

STEP_SIDE = 128
"""Smaller pictures need the larger step, to be found again at half their size."""

MIN_SIDE = 64
"""Smaller ones lose the mark all the same: benchmarks/results/watermark.json."""

THRESHOLD = 5.0
"""In standard deviations of the score of random averages; chance gets there once in two million times."""

ROUNDS = 4
WORKING_SIDE = 128
"""The smaller side of the copy on which is found how to move the cells of a larger picture."""

WHITE = 255.0
LUMA_3 = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Source: ITU-R BT.601, section 2.5.1, as in JPEG."""

_KEYS = np.frombuffer(hashlib.shake_256(b"hbridge watermark 1").digest(8 * CELLS**2), "<u8")
LATTICE_CC = _KEYS.argsort().reshape(CELLS, CELLS) / CELLS**2
"""A value of each cell's lattice, in steps: evenly spread, so that a picture of one colour scores 0."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reading:
    """How closely a picture keeps to the lattices.

    Attributes:
        score: About 0 without a mark, in standard deviations; 11.3 at most.
    """

    score: float

    @property
    def is_found(self) -> bool:
        """Whether that is the mark and no accident."""
        return self.score >= THRESHOLD


def is_markable(width: int, height: int) -> bool:
    """Say whether a picture of this size keeps a mark."""
    return min(width, height) >= MIN_SIDE


def mark(image: Image.Image) -> Image.Image:
    """Return the picture with the mark; the same picture gets the same pixels.

    Args:
        image: RGB, and markable.
    """
    step = STEP if min(image.size) >= STEP_SIDE else SMALL_STEP
    copy = _reduced(image)
    measure = _expected_cells if copy is image else _cells
    cells_CC = measure(image)
    change_CC = _nearest(cells_CC, step) - cells_CC
    before_CC, shift_CC = measure(copy), change_CC
    # What is cut off at black and white, and what smoothing takes, is made up for in the next round.
    for _ in range(ROUNDS):
        changed_CC = measure(_moved(copy, shift_CC)) - before_CC
        shift_CC = shift_CC + change_CC - changed_CC
    return _moved(image, shift_CC)


def read(image: Image.Image) -> Reading:
    """Look for the mark in a picture of any size.

    Args:
        image: RGB.
    """
    cells_CC = _cells(image)
    agreements = [np.cos(2 * np.pi * (cells_CC / step - LATTICE_CC)).mean() for step in (SMALL_STEP, STEP)]
    return Reading(float(max(agreements) * CELLS * np.sqrt(2)))


def _reduced(image: Image.Image) -> Image.Image:
    """Return a smaller picture with whole pixels in its cells, if this one is large."""
    factor = min(image.size) / WORKING_SIDE
    if factor < 2:
        return image
    width, height = (round(side / factor / CELLS) * CELLS for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _moved(image: Image.Image, shift_CC: Floats) -> Image.Image:
    """Add a shift of the luma, smooth between the cells."""
    smooth = Image.fromarray(shift_CC.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    moved_HW3 = np.asarray(image, dtype=np.float32) + np.asarray(smooth)[..., None]
    return Image.fromarray(moved_HW3.round().clip(0, WHITE).astype(np.uint8))


def _nearest(cells_CC: Floats, step: float) -> Floats:
    """Return the nearest values of the lattices within black and white."""
    nearest_CC = (np.round(cells_CC / step - LATTICE_CC) + LATTICE_CC) * step
    nearest_CC = np.where(nearest_CC > WHITE - 1, nearest_CC - step, nearest_CC)
    return np.where(nearest_CC < 1, nearest_CC + step, nearest_CC)


def _expected_cells(image: Image.Image) -> Floats:
    """Return the cells as a reader may find them: at this size, and reduced to half of it in two ways."""
    half = (image.width // 2, image.height // 2)
    reduced = [image.resize(half, how) for how in (Image.Resampling.LANCZOS, Image.Resampling.BILINEAR)]
    found = np.stack([_cells(each) for each in (image, *reduced)])
    mean_CC: Floats = found.mean(axis=0)
    return mean_CC


def _cells(image: Image.Image) -> Floats:
    luma = Image.fromarray(np.asarray(image, dtype=np.float32) @ LUMA_3)
    return np.asarray(luma.resize((CELLS, CELLS), Image.Resampling.BOX), dtype=np.float64)
