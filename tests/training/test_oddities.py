import math
from random import Random

from PIL import ImageColor

from training.oddities import ODDITY, odd_colour, odd_shape, oddly
from training.world import PALETTE, Kind, Thing


def test_what_has_no_name_is_far_from_what_has_one() -> None:
    rng = Random(3)
    for _ in range(50):
        thing = Thing(odd_shape(rng), odd_colour(rng), "small", 20, 20, 5)
        assert [thing.names(each) for each in ("shape", "colour", "size")] == [False, False, True]
        drawn = ImageColor.getrgb(thing.colour)
        assert all(math.dist(drawn, named) >= ODDITY for named in PALETTE.values())
        assert 5 * 0.5 < thing.reach < 5 * 1.4


def test_a_thing_loses_the_name_of_one_attribute_at_most() -> None:
    rng, kind = Random(4), Kind("circle", "red", "small")
    lost = [oddly(rng, kind) for _ in range(200)]
    changed = [(odd.shape != "circle", odd.colour != "red") for odd in lost]
    assert set(changed) == {(False, True), (True, False), (False, False)}
    assert {odd.size for odd in lost} == {"small"}
