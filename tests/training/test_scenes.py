import math
from random import Random

from PIL import ImageColor

from training.scenes import ODDITY, any_scene, odd_colour, odd_shape
from training.world import COLOURS, PALETTE, Scene, Thing, is_held_out


def test_a_scene_to_learn_from_shows_no_held_out_pair() -> None:
    rng = Random(0)
    for _ in range(100):
        assert not any(map(is_held_out, any_scene(rng, odd=0.5).things))


def test_as_many_pictures_hold_something_without_a_name_as_told() -> None:
    def is_odd(scene: Scene) -> bool:
        return not all(thing.names(each) for thing in scene.things for each in ("shape", "colour"))

    rng = Random(1)
    assert not any(is_odd(any_scene(rng)) for _ in range(50))
    assert sum(is_odd(any_scene(rng, odd=1.0)) for _ in range(200)) > 150


def test_what_has_no_name_is_far_from_what_has_one() -> None:
    rng = Random(3)
    for _ in range(50):
        thing = Thing(odd_shape(rng), odd_colour(rng, "pink"), "small", 20, 20, 5)
        assert [thing.names(each) for each in ("shape", "colour", "size")] == [False, False, True]
        drawn = ImageColor.getrgb(thing.colour)
        assert all(math.dist(drawn, PALETTE[each]) >= ODDITY for each in (*COLOURS, "pink"))
        assert 5 * 0.5 < thing.reach < 5 * 1.4
