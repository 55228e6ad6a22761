from random import Random

import numpy as np
import pytest

from training.world import (
    BACKGROUNDS,
    HELD_OUT,
    PALETTE,
    SHAPES,
    Kind,
    Scene,
    Thing,
    build,
    fits,
    is_held_out,
    kind_of,
    random_kind,
    region,
    relations,
    render,
)


@pytest.mark.parametrize("lattice", [True, False])
def test_things_stay_inside_and_apart(lattice: bool) -> None:
    rng = Random(0)
    for _ in range(50):
        kinds = [random_kind(rng, "gray") for _ in range(4)]
        scene = build(rng, "gray", kinds, lattice=lattice)
        for thing in scene.things:
            others = [other for other in scene.things if other is not thing]
            assert fits(thing, others, scene.width, scene.height)


def test_a_scene_has_the_kinds_it_was_built_from() -> None:
    rng = Random(1)
    kinds = [random_kind(rng, "white") for _ in range(3)]
    scene = build(rng, "white", kinds, width=96, height=64)
    assert sorted(map(kind_of, scene.things)) == sorted(kinds)


def test_kinds_show_on_their_background_and_are_held_out_only_when_asked() -> None:
    rng = Random(2)
    for background in BACKGROUNDS:
        for held_out in (False, True):
            kind = random_kind(rng, background, held_out=held_out)
            assert kind.colour != background
            assert is_held_out(kind) == held_out == ((kind.shape, kind.colour) in HELD_OUT)


def test_too_many_things_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        build(Random(0), "gray", [Kind("star", "red", "large")] * 4, width=32, height=32)


def test_a_rendering_has_the_colours_of_the_scene_in_the_right_places() -> None:
    picture = np.asarray(render(Scene("cyan", (Thing("square", "red", "large", 20, 44, 8.5),))))
    assert tuple(picture[44, 20]) == PALETTE["red"]
    assert tuple(picture[20, 44]) == PALETTE["cyan"]


def test_relations_are_opposite_seen_from_the_other_side() -> None:
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    rng = Random(3)
    for _ in range(100):
        scene = build(rng, "gray", [random_kind(rng, "gray") for _ in range(2)], lattice=False)
        there, back = relations(*scene.things), relations(*reversed(scene.things))
        assert {opposite[relation] for relation in there} == back


def test_a_region_names_the_ninth_that_holds_the_centre() -> None:
    assert region(Thing("star", "red", "small", 5, 60, 5), 64, 64) == "bottom left"
    assert region(Thing("star", "red", "small", 48, 32, 5), 96, 64) == "centre"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_half_way_to_itself_is_itself(shape: str) -> None:
    """So what lies between two is right in every direction."""
    known, between = (
        render(Scene("white", (Thing(each, "red", "large", 32, 32, 20),)))
        for each in (shape, f"{shape}~{shape}")
    )
    apart = [abs(a - b) for a, b in zip(known.tobytes(), between.tobytes(), strict=True)]
    assert sum(apart) / len(apart) < 2
