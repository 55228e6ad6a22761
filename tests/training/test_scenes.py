from random import Random

from training.scenes import any_scene
from training.world import Scene, is_held_out


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
