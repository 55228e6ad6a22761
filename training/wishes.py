"""What a picture must show: wants for single things, and wishes for whole scenes.

Every sentence comes with its wish, and pictures are scored by it, so a sentence can never mean one thing in
training and another in the evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from random import Random
from typing import Self

from training.world import NAMES, Kind, Scene, Thing, region, relations


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What one thing must be; None is left to the painter."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    region: str | None = None

    @classmethod
    def exactly(cls, thing: Thing) -> Self:
        """Want just such a thing, wherever it stands."""
        return cls(shape=thing.shape, colour=thing.colour, size=thing.size)

    @classmethod
    def like(cls, thing: Thing | Kind, *attributes: str) -> Self:
        """Want a thing like this one in some attributes, as far as there are words for them."""
        alike = {name: getattr(thing, name) for name in attributes}
        return cls(**{name: value for name, value in alike.items() if value in NAMES[name]})

    def holds(self, thing: Thing, width: int, height: int) -> bool:
        """Say whether a thing is as wanted."""
        return (
            self.shape in (None, thing.shape)
            and self.colour in (None, thing.colour)
            and self.size in (None, thing.size)
            and self.region in (None, region(thing, width, height))
        )


def draw_want(
    rng: Random, thing: Thing | Kind, *, size: float = 0.5, colour: float = 1.0, shape: float = 1.0
) -> Want:
    """Want a thing like this one, each attribute with a probability of its own."""
    shares = {"shape": shape, "colour": colour, "size": size}
    return Want.like(thing, *(name for name, share in shares.items() if rng.random() < share))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a picture must show: these things and no others, so related, on this background.

    Attributes:
        relations: (i, relation, j): want i lies so to want j.
    """

    wants: tuple[Want, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    background: str | None = None

    def is_met(self, scene: Scene) -> bool:
        """Say whether some assignment of things to wants meets everything, with nothing left over."""
        if self.background not in (None, scene.background) or len(scene.things) != len(self.wants):
            return False
        return any(self._holds(things, scene) for things in permutations(scene.things))

    def _holds(self, things: Sequence[Thing], scene: Scene) -> bool:
        pairs = zip(self.wants, things, strict=True)
        return all(want.holds(thing, scene.width, scene.height) for want, thing in pairs) and all(
            relation in relations(things[i], things[j]) for i, relation, j in self.relations
        )
