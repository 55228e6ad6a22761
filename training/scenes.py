"""The pictures that the understanding expert learns from: more than those that captions ask for.

Some hold things without a name: in colours far from all that have one, or in outlines half-way between two
shapes. Where every purple thing that is ever seen is no circle, "purple" is learnt to mean that; things
between those with names leave nothing to tell such a rule by.
"""

import math
from dataclasses import replace
from random import Random

from training.canvas import Canvas
from training.captions import CAPTIONS
from training.world import BACKGROUNDS, BETWEEN, COLOURS, PALETTE, SHAPES, Scene, Thing, build, random_kind

SIZES = ((64, 64), (64, 64), (64, 64), (96, 64), (64, 96))
ODDITY = 70.0
"""Least distance in RGB, 0 to 255 each, of a colour without a name to those with one."""


def any_scene(rng: Random, *, odd: float = 0.0) -> Scene:
    """Draw a scene: random things, or one that a caption or an instruction speaks of.

    Args:
        odd: Share of scenes in which things may be of shapes or colours without a name. None is of a
            held-out pair.
    """
    scene = _named_scene(rng)
    if rng.random() >= odd:
        return scene
    things = [_odd(rng, thing, scene.background) for thing in scene.things]
    return replace(scene, things=tuple(things))


def _odd(rng: Random, thing: Thing, background: str) -> Thing:
    choice = rng.random()
    if choice < 0.4:
        return replace(thing, colour=odd_colour(rng, background))
    return replace(thing, shape=odd_shape(rng)) if choice < 0.8 else thing


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


def odd_shape(rng: Random) -> str:
    """Draw a shape without a name, half-way between two that have one."""
    return BETWEEN.join(rng.sample(SHAPES, 2))


def odd_colour(rng: Random, background: str) -> str:
    """Draw a colour without a name, far from all that have one."""
    named = [PALETTE[colour] for colour in (*COLOURS, background)]
    while True:
        drawn = tuple(rng.randrange(256) for _ in range(3))
        if all(math.dist(drawn, each) >= ODDITY for each in named):
            return "#{:02x}{:02x}{:02x}".format(*drawn)
