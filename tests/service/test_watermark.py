from collections.abc import Iterator
from io import BytesIO
from random import Random

import numpy as np
import pytest
from PIL import Image

from service.watermark import CELLS, LATTICE_CC, MIN_SIDE, is_markable, mark, read
from training.world import random_scene, render


def pictures(side: int) -> Iterator[Image.Image]:
    """Return smooth noise, drawn shapes, and pictures of one colour that hold little more."""
    for seed in range(4):
        rough = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        yield Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC)
        yield render(random_scene(Random(seed), side, side))
    for colour in ("white", "black", "blue"):
        yield Image.new("RGB", (side, side), colour)


def jpeg(image: Image.Image) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=80)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize("side", [64, 96, 160, 256])
def test_the_mark_survives_jpeg_80_and_half_the_size(side: int) -> None:
    survived = []
    for picture in pictures(side):
        marked = mark(picture)
        half = marked.resize((side // 2, side // 2), Image.Resampling.BICUBIC)
        assert read(marked).is_found
        survived += [read(jpeg(marked)).is_found, read(half).is_found]
    assert np.mean(survived) >= 0.9


@pytest.mark.parametrize("side", [64, 300])
def test_what_was_not_marked_is_not_taken_for_marked(side: int) -> None:
    assert not any(read(picture).is_found for picture in pictures(side))


def test_the_smallest_picture_can_be_read() -> None:
    assert not read(Image.new("RGB", (1, 1))).is_found


def test_a_picture_of_one_colour_scores_nothing_whatever_the_colour() -> None:
    for grey in range(0, 256, 15):
        assert abs(read(Image.new("RGB", (64, 64), (grey,) * 3)).score) < 1e-3


def test_the_mark_moves_no_pixel_far_and_is_the_same_every_time() -> None:
    for picture in pictures(128):
        marked = mark(picture)
        difference = np.asarray(marked, float) - np.asarray(picture, float)
        # Half a step where both ways are open; black and white can only go one way.
        assert 10 * np.log10(255**2 / np.mean(difference**2)) > 38
        assert mark(picture).tobytes() == marked.tobytes()


def test_a_picture_need_not_be_square_nor_its_sides_round() -> None:
    rough = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8))
    picture = rough.resize((641, 367), Image.Resampling.BICUBIC)
    assert read(mark(picture)).is_found
    assert read(mark(picture).resize((320, 180))).is_found


def test_pictures_are_marked_from_the_smallest_side_on_that_keeps_it() -> None:
    assert is_markable(MIN_SIDE, 2 * MIN_SIDE)
    assert not is_markable(MIN_SIDE - 1, 2 * MIN_SIDE)


def test_every_cell_has_a_lattice_of_its_own() -> None:
    assert LATTICE_CC.shape == (CELLS, CELLS)
    assert len(np.unique(LATTICE_CC)) == CELLS**2
    assert (LATTICE_CC.min(), LATTICE_CC.max()) == (0, 1 - 1 / CELLS**2)
