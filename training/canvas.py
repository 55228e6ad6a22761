"""How the scenes of captions, instructions and questions are made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from training.oddities import oddly
from training.world import Kind, Scene, build, kind_of, random_kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """The size of scenes, where things stand, and whether one is of a held-out pair.

    Attributes:
        held_out: One thing is of a held-out pair; otherwise none is.
        lattice: Things stand near the centres of the lattice's cells.
        odd: Share of scenes in which things may be of shapes or colours without a name.
    """

    width: int = 64
    height: int = 64
    held_out: bool = False
    lattice: bool = True
    odd: float = 0.0

    def kinds(self, rng: Random, background: str, count: int) -> list[Kind]:
        """Draw kinds for a scene."""
        kinds = [random_kind(rng, background) for _ in range(count)]
        if self.held_out and kinds:
            kinds[rng.randrange(count)] = random_kind(rng, background, held_out=True)
        if self.odd and rng.random() < self.odd:
            kinds = [oddly(rng, kind) for kind in kinds]
        return kinds

    def scene(self, rng: Random, background: str, kinds: Sequence[Kind]) -> Scene:
        """Place kinds; the scene's things are in the order of the kinds."""
        scene = build(rng, background, kinds, width=self.width, height=self.height, lattice=self.lattice)
        left = list(scene.things)
        ordered = []
        for kind in kinds:
            thing = next(t for t in left if kind_of(t) == kind)
            left.remove(thing)
            ordered.append(thing)
        return replace(scene, things=tuple(ordered))
