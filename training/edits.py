"""Edits: instructions with a scene before, one right scene after, and what must hold."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from training.canvas import Canvas
from training.english import (
    REGION_WORDS,
    RELATION_WORDS,
    colour_word,
    noun,
    polished,
    reference,
    with_article,
)
from training.mentions import Mention
from training.wishes import Want, Wish, draw_want
from training.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    Thing,
    fits,
    is_held_out,
    kind_of,
    place,
    random_kind,
    region,
    relations,
)

RECOLOURINGS = (
    "make {} {}",
    "change {} to {}",
    "turn {} {}",
    "paint {} {}",
    "change the colour of {} to {}",
    "recolor {} to {}",
)
REPLACINGS = ("replace {} with {}", "change {} into {}", "turn {} into {}", "swap {} for {}")
REMOVALS = ("remove {}", "delete {}", "take away {}", "erase {}", "get rid of {}")
MOVES = ("move {} {}", "move {} {}", "shift {} {}", "put {} {}")
GROUNDINGS = (
    "change the background to {}",
    "make the background {}",
    "turn the background {}",
    "use a {} background",
    "put it on a {} background",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """An instruction, the scene before, one right scene after, and what must hold.

    Attributes:
        kept: Things that must stay what and where they were.
        wish: What the whole picture must show afterwards.
        mentions: Things before that the instruction speaks of, in order.
    """

    operation: str
    text: str
    before: Scene
    after: Scene
    kept: tuple[Thing, ...]
    wish: Wish
    mentions: tuple[Mention, ...] = ()

    def is_met(self, scene: Scene, *, slack: float = 4.0) -> bool:
        """Say whether the picture shows the change and keeps everything else within `slack` pixels."""
        return self.wish.is_met(scene) and self.keeps(scene, slack=slack)

    def keeps(self, scene: Scene, *, slack: float = 4.0) -> bool:
        """Say whether what was not to change is still what and where it was, within `slack` pixels."""
        return all(
            any(
                kind_of(thing) == kind_of(old)
                and abs(thing.x - old.x) <= slack
                and abs(thing.y - old.y) <= slack
                for thing in scene.things
            )
            for old in self.kept
        )


@dataclass(frozen=True, slots=True)
class Target:
    """One thing of a scene, and words that can mean no other."""

    scene: Scene
    index: int
    words: str

    @property
    def thing(self) -> Thing:
        """What is pointed at."""
        return self.scene.things[self.index]

    @property
    def mention(self) -> Mention:
        """The words, and what they mean."""
        return Mention(self.words, self.thing)

    @property
    def rest(self) -> tuple[Thing, ...]:
        """The other things."""
        return self.scene.things[: self.index] + self.scene.things[self.index + 1 :]

    def becomes(self, *things: Thing) -> Scene:
        """Return the scene with other things in the place of this one."""
        return replace(self.scene, things=(*self.rest, *things))


def _target(rng: Random, canvas: Canvas, most: int = 3) -> Target:
    while True:
        ground = rng.choice(BACKGROUNDS)
        scene = canvas.scene(rng, ground, canvas.kinds(rng, ground, rng.randint(1, most)))
        index = rng.randrange(len(scene.things))
        words = reference(rng, scene.things[index], scene)
        if words is not None:
            return Target(scene, index, words)


def _full_wish(kept: tuple[Thing, ...], background: str, *extra: Want) -> Wish:
    return Wish(wants=(*map(Want.exactly, kept), *extra), background=background)


def recolour(rng: Random, canvas: Canvas) -> Edit:
    """Give one thing another colour."""
    while True:
        target = _target(rng, canvas)
        free = [c for c in COLOURS if c not in (target.thing.colour, target.scene.background)]
        new = replace(target.thing, colour=rng.choice(free))
        if not is_held_out(new):
            break
    colour = colour_word(rng, new.colour)
    text = rng.choice(RECOLOURINGS).format(target.words, colour)
    return Edit(
        operation="recolour",
        text=polished(rng, text),
        before=target.scene,
        after=target.becomes(new),
        kept=target.rest,
        wish=_full_wish(target.rest, target.scene.background, Want.exactly(new)),
        mentions=(target.mention,),
    )


def replace_thing(rng: Random, canvas: Canvas) -> Edit:
    """Put another shape in the place of one thing, of the same colour or another."""
    while True:
        target = _target(rng, canvas)
        scene, old = target.scene, target.thing
        shape = rng.choice([s for s in SHAPES if s != old.shape])
        colour = old.colour if rng.random() < 0.5 else rng.choice(COLOURS)
        new = replace(old, shape=shape, colour=colour)
        shows = colour != scene.background and not is_held_out(new)
        if shows and fits(new, target.rest, scene.width, scene.height):
            break
    is_named = colour != old.colour or (new.names("colour") and rng.random() < 0.4)
    want = Want(shape=shape, colour=colour if is_named else None)
    text = rng.choice(REPLACINGS).format(target.words, with_article(noun(rng, want)))
    return Edit(
        operation="replace",
        text=polished(rng, text),
        before=scene,
        after=target.becomes(new),
        kept=target.rest,
        wish=_full_wish(target.rest, scene.background, Want.exactly(new)),
        mentions=(target.mention,),
    )


def remove(rng: Random, canvas: Canvas) -> Edit:
    """Take one thing away."""
    while True:
        target = _target(rng, canvas, most=4)
        if target.rest:
            break
    text = rng.choice(REMOVALS).format(target.words)
    return Edit(
        operation="remove",
        text=polished(rng, text),
        before=target.scene,
        after=target.becomes(),
        kept=target.rest,
        wish=_full_wish(target.rest, target.scene.background),
        mentions=(target.mention,),
    )


def add(rng: Random, canvas: Canvas) -> Edit:
    """Add a thing, somewhere, in a named place, or beside another thing."""
    while True:
        target = _target(rng, canvas)
        scene = target.scene
        kind = random_kind(rng, scene.background)
        new = place(rng, kind, scene.things, scene.width, scene.height, lattice=canvas.lattice)
        if new is not None:
            break
    want = draw_want(rng, new, size=0.4)
    wish = _full_wish(scene.things, scene.background, want)
    where, choice = "", rng.random()
    mentions: tuple[Mention, ...] = ()
    held = sorted(relations(new, target.thing))
    if choice < 0.4 and held:
        relation = rng.choice(held)
        where = f" {rng.choice(RELATION_WORDS[relation])} {target.words}"
        wish = replace(wish, relations=((len(scene.things), relation, target.index),))
        mentions = (target.mention,)
    elif choice < 0.65:
        name = region(new, scene.width, scene.height)
        where = " " + rng.choice(REGION_WORDS[name])
        wish = replace(wish, wants=(*wish.wants[:-1], replace(want, region=name)))
    verb = rng.choice(("add", "put", "draw", "place") if where else ("add", "draw"))
    text = f"{verb} {with_article(noun(rng, want))}{where}"
    return Edit(
        operation="add",
        text=polished(rng, text),
        before=scene,
        after=replace(scene, things=(*scene.things, new)),
        kept=scene.things,
        wish=wish,
        mentions=mentions,
    )


def move(rng: Random, canvas: Canvas) -> Edit:
    """Move one thing to a named place or beside another thing."""
    while True:
        target = _target(rng, canvas)
        new = _moved(rng, target, lattice=canvas.lattice)
        if new is not None:
            break
    goal, wish, beside = _goal(rng, target, new)
    text = rng.choice(MOVES).format(target.words, goal)
    return Edit(
        operation="move",
        text=polished(rng, text),
        before=target.scene,
        after=target.becomes(new),
        kept=target.rest,
        wish=wish,
        mentions=(target.mention, *beside),
    )


def _moved(rng: Random, target: Target, *, lattice: bool) -> Thing | None:
    old, size = target.thing, (target.scene.width, target.scene.height)
    spot = place(rng, kind_of(old), target.rest, *size, lattice=lattice)
    if spot is None or region(spot, *size) == region(old, *size):
        return None
    new = replace(old, x=spot.x, y=spot.y)
    return new if fits(new, target.rest, *size) else None


def _goal(rng: Random, target: Target, new: Thing) -> tuple[str, Wish, tuple[Mention, ...]]:
    scene, rest = target.scene, target.rest
    where = region(new, scene.width, scene.height)
    goal = rng.choice(REGION_WORDS[where])
    for standing in ("in the", "at the", "on the"):
        goal = goal.replace(standing, "to the")
    if rest and rng.random() < 0.4:
        other = rng.choice(rest)
        held = sorted(relations(new, other) - relations(target.thing, other))
        beside = reference(rng, other, scene)
        if held and beside:
            relation = rng.choice(held)
            wish = _full_wish(rest, scene.background, Want.exactly(new))
            related = replace(wish, relations=((len(rest), relation, rest.index(other)),))
            goal = f"{rng.choice(RELATION_WORDS[relation][:2])} {beside}"
            return goal, related, (Mention(beside, other),)
    return goal, _full_wish(rest, scene.background, replace(Want.exactly(new), region=where)), ()


def change_background(rng: Random, canvas: Canvas) -> Edit:
    """Give the picture another background."""
    while True:
        scene = _target(rng, canvas).scene
        taken = {scene.background, *(thing.colour for thing in scene.things)}
        free = [c for c in BACKGROUNDS if c not in taken]
        if free:
            break
    ground = rng.choice(free)
    text = rng.choice(GROUNDINGS).format(colour_word(rng, ground))
    return Edit(
        operation="background",
        text=polished(rng, text),
        before=scene,
        after=replace(scene, background=ground),
        kept=scene.things,
        wish=_full_wish(scene.things, ground),
    )


EDITS: dict[str, Callable[[Random, Canvas], Edit]] = {
    "recolour": recolour,
    "replace": replace_thing,
    "remove": remove,
    "add": add,
    "move": move,
    "background": change_background,
}
