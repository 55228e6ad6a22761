"""Things without a name: in colours far from all that have one, or in outlines half-way between two shapes.

Where every purple thing that is ever seen is no circle, "purple" is learnt to mean that; things between those
with names leave nothing to tell such a rule by.
"""

import math
from dataclasses import replace
from random import Random
from typing import TypeVar

from training.world import BETWEEN, PALETTE, SHAPES, Kind, Thing

ThingOrKind = TypeVar("ThingOrKind", Kind, Thing)

ODDITY = 70.0
"""Least distance in RGB, 0 to 255 each, of a colour without a name to those with one."""


def oddly(rng: Random, thing: ThingOrKind) -> ThingOrKind:
    """Return the same in a colour or an outline without a name; one time in five, the same."""
    choice = rng.random()
    if choice < 0.4:
        return replace(thing, colour=odd_colour(rng))
    return replace(thing, shape=odd_shape(rng)) if choice < 0.8 else thing


def odd_shape(rng: Random) -> str:
    """Draw a shape without a name, half-way between two that have one."""
    return BETWEEN.join(rng.sample(SHAPES, 2))


def odd_colour(rng: Random) -> str:
    """Draw a colour without a name, far from all that have one."""
    while True:
        drawn = tuple(rng.randrange(256) for _ in range(3))
        if all(math.dist(drawn, named) >= ODDITY for named in PALETTE.values()):
            return "#{:02x}{:02x}{:02x}".format(*drawn)
