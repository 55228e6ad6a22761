from random import Random

import numpy as np
import pytest
from PIL import Image

from training.detector import UNKNOWN, detect
from training.world import (
    BACKGROUNDS,
    PALETTE,
    SHAPES,
    Scene,
    Thing,
    build,
    kind_of,
    random_kind,
    render,
)

SIZES = ((64, 64), (96, 64), (64, 96), (128, 128))


def scenes(count: int, seed: int) -> list[Scene]:
    rng = Random(seed)
    made = []
    for i in range(count):
        ground = rng.choice(BACKGROUNDS)
        kinds = [random_kind(rng, ground, held_out=rng.random() < 0.1) for _ in range(rng.randint(1, 4))]
        width, height = SIZES[i % len(SIZES)]
        made.append(build(rng, ground, kinds, width=width, height=height, lattice=i % 2 == 0))
    return made


def is_read(picture: Image.Image, scene: Scene) -> bool:
    read = detect(picture)
    right = sorted(map(kind_of, read.things)) == sorted(map(kind_of, scene.things))
    return right and read.background == scene.background


def noisy(picture: Image.Image, deviation: float, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0, deviation, (picture.height, picture.width, 3))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def test_clean_renderings_are_read_as_they_were_meant() -> None:
    made = scenes(400, seed=0)
    assert sum(is_read(render(scene), scene) for scene in made) / len(made) >= 0.995


@pytest.mark.parametrize(("deviation", "share"), [(4.0, 0.99), (8.0, 0.95)])
def test_noise_of_some_levels_does_no_harm(deviation: float, share: float) -> None:
    made = scenes(100, seed=1)
    right = [is_read(noisy(render(scene), deviation, i), scene) for i, scene in enumerate(made)]
    assert sum(right) / len(right) >= share


def test_places_are_read_within_a_pixel() -> None:
    for scene in scenes(40, seed=2):
        for thing in detect(render(scene)).things:
            nearest = min(scene.things, key=lambda t: (t.x - thing.x) ** 2 + (t.y - thing.y) ** 2)
            assert abs(nearest.x - thing.x) < 1
            assert abs(nearest.y - thing.y) < 1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thing_of_another_shape_is_not_taken_for_this_one(shape: str) -> None:
    for other in SHAPES:
        picture = render(Scene("white", (Thing(other, "red", "large", 32, 32, 8.5),)))
        (thing,) = detect(picture).things
        assert (thing.shape == shape) == (other == shape)


def test_a_region_like_no_shape_is_reported_as_unknown() -> None:
    picture = Image.new("RGB", (64, 64), PALETTE["white"])
    picture.paste(PALETTE["red"], (4, 30, 60, 34))
    (thing,) = detect(picture).things
    assert thing.shape == UNKNOWN


def test_an_empty_picture_holds_nothing() -> None:
    assert detect(Image.new("RGB", (64, 64), PALETTE["pink"])) == Scene("pink", ())
