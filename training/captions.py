"""Captions: sentences that ask for a picture, with all that they demand and a scene that they fit."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from training.canvas import Canvas
from training.english import NUMBER_WORDS, REGION_WORDS, RELATION_WORDS, framed, joined, noun, with_article
from training.wishes import Want, Wish, draw_want
from training.world import (
    BACKGROUNDS,
    COLOURS,
    RADII,
    SHAPES,
    Kind,
    Scene,
    is_held_out,
    region,
    relations,
)

DESCRIBED = 0.4
"""Share of what is taught whose caption tells the whole picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """A sentence that asks for a picture, a scene that it fits, and all that it demands."""

    kind: str
    text: str
    wish: Wish
    scene: Scene


def single(rng: Random, canvas: Canvas) -> Caption:
    """One thing: "a small red circle on a green background"."""
    ground = rng.choice(BACKGROUNDS)
    scene = canvas.scene(rng, ground, canvas.kinds(rng, ground, 1))
    want = draw_want(rng, scene.things[0], colour=1.0 if canvas.held_out else 0.9)
    wish = Wish(wants=(want,), background=_background(rng, scene))
    return Caption(kind="single", text=_listed(rng, wish), wish=wish, scene=scene)


def colours(rng: Random, canvas: Canvas) -> Caption:
    """One thing whose colour and background both are named."""
    ground = rng.choice(BACKGROUNDS)
    scene = canvas.scene(rng, ground, canvas.kinds(rng, ground, 1))
    wish = Wish(wants=(draw_want(rng, scene.things[0], size=0.0),), background=ground)
    return Caption(kind="colours", text=_listed(rng, wish), wish=wish, scene=scene)


def two_objects(rng: Random, canvas: Canvas) -> Caption:
    """Two things of different shapes, often without colours."""
    ground = rng.choice(BACKGROUNDS)
    kinds = canvas.kinds(rng, ground, 2)
    while kinds[0].shape == kinds[1].shape:
        kinds = canvas.kinds(rng, ground, 2)
    scene = canvas.scene(rng, ground, kinds)
    share = 1.0 if canvas.held_out else 0.6
    wants = tuple(draw_want(rng, t, size=0.3, colour=share) for t in scene.things)
    wish = Wish(wants=wants, background=_background(rng, scene))
    return Caption(kind="two_objects", text=_listed(rng, wish), wish=wish, scene=scene)


def binding(rng: Random, canvas: Canvas) -> Caption:
    """Two to four things, each with its colour."""
    ground = rng.choice(BACKGROUNDS)
    kinds = canvas.kinds(rng, ground, rng.choice((2, 2, 2, 3, 4)))
    scene = canvas.scene(rng, ground, kinds)
    wish = Wish(
        wants=tuple(draw_want(rng, t, size=0.3) for t in scene.things), background=_background(rng, scene)
    )
    return Caption(kind="binding", text=_listed(rng, wish), wish=wish, scene=scene)


def counting(rng: Random, canvas: Canvas) -> Caption:
    """Some things of one sort: "three red circles"; now and then of any colours."""
    ground = rng.choice(BACKGROUNDS)
    count = rng.choice((2, 2, 3, 3, 4, 4, 1))
    model = canvas.kinds(rng, ground, 1)[0]
    kinds = [replace(model, size=rng.choice(tuple(RADII))) for _ in range(count)]
    want = Want.like(model, "shape", "colour")
    if not canvas.held_out and rng.random() < 0.35:
        kinds = [_other_colour(rng, kind, ground) for kind in kinds]
        want = Want.like(model, "shape")
    elif rng.random() < 0.3:
        kinds = [model] * count
        want = Want.like(model, "shape", "colour", "size")
    scene = canvas.scene(rng, ground, kinds)
    wish = Wish(wants=(want,) * count, background=_background(rng, scene))
    text = f"{rng.choice((NUMBER_WORDS[count], NUMBER_WORDS[count], str(count)))} {noun(rng, want, count)}"
    if rng.random() < 0.15:
        text = text.replace("one ", "exactly one ") if count == 1 else "exactly " + text
    return Caption(kind="counting", text=framed(rng, text, wish.background), wish=wish, scene=scene)


def _other_colour(rng: Random, kind: Kind, ground: str) -> Kind:
    free = [c for c in COLOURS if c != ground and not is_held_out(replace(kind, colour=c))]
    return replace(kind, colour=rng.choice(free))


def position(rng: Random, canvas: Canvas) -> Caption:
    """Two things and how they lie, or one thing and where it stands."""
    ground = rng.choice(BACKGROUNDS)
    return _placed(rng, canvas, ground) if rng.random() < 0.25 else _related(rng, canvas, ground)


def _placed(rng: Random, canvas: Canvas, ground: str) -> Caption:
    scene = canvas.scene(rng, ground, canvas.kinds(rng, ground, 1))
    where = region(scene.things[0], scene.width, scene.height)
    want = replace(draw_want(rng, scene.things[0], size=0.3), region=where)
    wish = Wish(wants=(want,), background=_background(rng, scene, 0.5))
    text = with_article(noun(rng, want)) + " " + rng.choice(REGION_WORDS[where])
    return Caption(kind="position", text=framed(rng, text, wish.background), wish=wish, scene=scene)


def _related(rng: Random, canvas: Canvas, ground: str) -> Caption:
    scene, held = _related_pair(rng, canvas, ground)
    relation = rng.choice(held)
    first, second = (draw_want(rng, t, size=0.2) for t in scene.things)
    wish = Wish(wants=(first, second), relations=((0, relation, 1),), background=_background(rng, scene, 0.5))
    text = _relation_text(rng, wish, relation)
    return Caption(kind="position", text=framed(rng, text, wish.background), wish=wish, scene=scene)


def _related_pair(rng: Random, canvas: Canvas, ground: str) -> tuple[Scene, list[str]]:
    while True:
        scene = canvas.scene(rng, ground, canvas.kinds(rng, ground, 2))
        first, second = scene.things
        held = sorted(relations(first, second))
        if held and (first.shape, first.colour) != (second.shape, second.colour):
            return scene, held


def described(rng: Random, canvas: Canvas) -> Caption:
    """One to four things, each with its colour and where it stands: what leaves least to chance.

    Not scored. A picture that its caption tells nearly whole teaches fastest which words mean which part.
    """
    ground = rng.choice(BACKGROUNDS)
    scene = canvas.scene(rng, ground, canvas.kinds(rng, ground, rng.choice((1, 2, 2, 3, 3, 4))))
    return describing(rng, scene)


def describing(rng: Random, scene: Scene) -> Caption:
    """Describe a scene: every thing, its colour and where it stands, mostly its size."""
    wants = [
        replace(draw_want(rng, thing, size=0.7), region=region(thing, scene.width, scene.height))
        for thing in scene.things
    ]
    wish = Wish(wants=tuple(wants), background=_background(rng, scene, 0.8))
    parts = [
        f"{with_article(noun(rng, want))} {rng.choice(REGION_WORDS[want.region or ''])}" for want in wants
    ]
    text = framed(rng, joined(parts), wish.background)
    return Caption(kind="described", text=text, wish=wish, scene=scene)


def _relation_text(rng: Random, wish: Wish, relation: str) -> str:
    first, second = (with_article(noun(rng, want)) for want in wish.wants)
    if rng.random() < 0.2:
        there = {"left": "to its left", "right": "to its right", "above": "above it", "below": "below it"}
        return f"{second} with {first} {there[relation]}"
    return f"{first} {rng.choice(RELATION_WORDS[relation])} {second}"


def _listed(rng: Random, wish: Wish) -> str:
    text = joined([with_article(noun(rng, want)) for want in wish.wants])
    if rng.random() < 0.06:
        absent = [s for s in SHAPES if all(want.shape != s for want in wish.wants)]
        text += rng.choice((" and no {}", " without any {}", " but no {}")).format(
            noun(rng, Want(shape=rng.choice(absent)), 2)
        )
    return framed(rng, text, wish.background)


def _background(rng: Random, scene: Scene, share: float = 0.6) -> str | None:
    return scene.background if rng.random() < share else None


def taught(rng: Random, canvas: Canvas) -> Caption:
    """Draw a caption of any kind that is taught."""
    if rng.random() < DESCRIBED:
        return described(rng, canvas)
    return rng.choice(list(CAPTIONS.values()))(rng, canvas)


CAPTIONS: dict[str, Callable[[Random, Canvas], Caption]] = {
    "single": single,
    "two_objects": two_objects,
    "counting": counting,
    "colours": colours,
    "position": position,
    "binding": binding,
}
