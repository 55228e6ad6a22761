"""The pictures that the understanding expert learns from: more than those that captions ask for."""

from dataclasses import replace
from random import Random

from training.canvas import Canvas
from training.captions import CAPTIONS
from training.oddities import oddly
from training.world import BACKGROUNDS, Scene, build, random_kind

SIZES = ((64, 64), (64, 64), (64, 64), (96, 64), (64, 96))


def any_scene(rng: Random, *, odd: float = 0.0) -> Scene:
    """Draw a scene: random things, or one that a caption or an instruction speaks of.

    Args:
        odd: Share of scenes in which things may be of shapes or colours without a name. None is of a
            held-out pair.
    """
    scene = _named_scene(rng)
    if rng.random() >= odd:
        return scene
    return replace(scene, things=tuple(oddly(rng, thing) for thing in scene.things))


def _named_scene(rng: Random) -> Scene:
    width, height = rng.choice(SIZES)
    canvas = Canvas(width=width, height=height, lattice=rng.random() < 0.4)
    if rng.random() < 0.3:
        return rng.choice(list(CAPTIONS.values()))(rng, canvas).scene
    background = rng.choice(BACKGROUNDS)
    kinds = [random_kind(rng, background) for _ in range(rng.choice((1, 2, 2, 3, 3, 4)))]
    if rng.random() < 0.3:
        kinds[-1] = kinds[0]
    return build(rng, background, kinds, width=width, height=height, lattice=canvas.lattice)
