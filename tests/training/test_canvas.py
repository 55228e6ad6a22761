from random import Random

import pytest

from training.canvas import Canvas
from training.world import is_held_out, kind_of


@pytest.mark.parametrize("held_out", [False, True])
def test_a_held_out_pair_is_shown_exactly_when_asked(held_out: bool) -> None:
    rng = Random(0)
    for count in (1, 2, 3, 4):
        kinds = Canvas(held_out=held_out).kinds(rng, "gray", count)
        assert sum(map(is_held_out, kinds)) == held_out
        assert len(kinds) == count


def test_things_come_in_the_order_of_their_kinds() -> None:
    rng, canvas = Random(1), Canvas()
    for _ in range(20):
        kinds = canvas.kinds(rng, "white", 4)
        assert [kind_of(thing) for thing in canvas.scene(rng, "white", kinds).things] == kinds


def test_scenes_have_the_size_of_the_canvas() -> None:
    canvas = Canvas(width=96, height=64, lattice=False)
    rng = Random(2)
    scene = canvas.scene(rng, "pink", canvas.kinds(rng, "pink", 2))
    assert (scene.width, scene.height, scene.background) == (96, 64, "pink")
