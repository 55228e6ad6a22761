from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.checkpoint import load
from model.drawing import Drawing
from model.family import Family, Size
from model.pipeline import draw
from training.painting import AT_ONCE, paint

SMALL = Drawing(prompt="a red star", seed=3, size=Size(64, 64), num_inference_steps=2)
RED = Image.new("RGB", (64, 64), "red")
DRAWINGS = [
    SMALL,
    replace(SMALL, prompt="two squares", seed=4, guidance_scale=1.0),
    replace(SMALL, size=Size(96, 64), guidance_interval=(0.0, 0.3), negative_prompt="blue"),
    replace(SMALL, num_inference_steps=3, solver="dpmpp_2m"),
    replace(SMALL, prompt="make it blue", images=(RED,), size=None),
    replace(SMALL, prompt="remove it", images=(RED,), guidance_scale=3.0, image_guidance_scale=1.0),
]


@pytest.fixture(scope="module")
def family(drawing_folder: Path) -> Family:
    return load(drawing_folder)


def test_many_drawings_together_equal_each_alone(family: Family) -> None:
    for drawing, painted in zip(DRAWINGS, paint(family, DRAWINGS), strict=True):
        alone = draw(family, drawing).images[0]
        assert painted.size == alone.size
        difference = np.asarray(painted).astype(int) - np.asarray(alone)
        assert abs(difference).max() <= 1


def test_more_drawings_than_fit_in_a_call_come_in_order(family: Family) -> None:
    seeds = [seed % 2 for seed in range(AT_ONCE + 2)]
    drawings = [replace(SMALL, num_inference_steps=1, guidance_scale=1.0, seed=seed) for seed in seeds]
    pictures = [np.asarray(picture).astype(int) for picture in paint(family, drawings)]
    assert len(pictures) == AT_ONCE + 2
    assert abs(pictures[0] - pictures[AT_ONCE]).max() <= 1
    assert abs(pictures[1] - pictures[AT_ONCE + 1]).max() <= 1
    assert abs(pictures[0] - pictures[1]).max() > 1


def test_no_drawings_are_no_pictures(family: Family) -> None:
    assert paint(family, []) == []
