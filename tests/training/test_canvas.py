from random import Random

import pytest

from training.canvas import Canvas
from training.world import Kind, is_held_out, kind_of


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


def test_things_have_no_name_only_on_a_canvas_that_lets_them() -> None:
    def is_odd(kind: Kind) -> bool:
        return kind.colour.startswith("#") or "~" in kind.shape

    rng = Random(3)
    shares = [
        sum(any(map(is_odd, Canvas(odd=odd).kinds(rng, "gray", 2))) for _ in range(200)) / 200
        for odd in (0.0, 0.5, 1.0)
    ]
    assert shares[0] == 0
    assert 0.3 < shares[1] < 0.65
    assert shares[2] > 0.9
