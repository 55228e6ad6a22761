"""Questions about a scene with their one right answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from random import Random

from training.english import OPPOSITE, RELATION_WORDS, describe, noun, reference, with_article
from training.mentions import Mention
from training.wishes import Want
from training.world import (
    COLOURS,
    HELD_OUT,
    NAMES,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    is_held_out,
    region,
    relations,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question about a scene and its one right answer.

    Attributes:
        mentions: Single things that it speaks of, in order.
    """

    kind: str
    text: str
    answer: str
    mentions: tuple[Mention, ...] = ()


def _ask_count(rng: Random, scene: Scene) -> Query | None:
    model = rng.choice(scene.things)
    want = rng.choice(
        (
            Want(),
            Want(),
            Want(shape=model.shape),
            Want(colour=model.colour),
            Want(shape=rng.choice(SHAPES)),
            Want(size=model.size),
        )
    )
    asked = [name for name in ("shape", "colour") if getattr(want, name)]
    if not all(thing.names(name) for thing in scene.things for name in asked):
        return None
    count = sum(want.holds(t, scene.width, scene.height) for t in scene.things)
    form = rng.choice(
        (
            "how many {} are there?",
            "how many {} are in the picture?",
            "how many {} do you see?",
            "count the {}.",
        )
    )
    return Query(kind="count", text=form.format(noun(rng, want, 2)), answer=str(count))


def _pointing(rng: Random, scene: Scene, *, without: str) -> tuple[Thing, str] | None:
    things = list(scene.things)
    rng.shuffle(things)
    for thing in things:
        attributes = [name for name in NAMES if name != without and thing.names(name)]
        subsets = [tuple(attributes), *((name,) for name in attributes)]
        rng.shuffle(subsets)
        for names in subsets:
            want = Want.like(thing, *names)
            if sum(want.holds(t, scene.width, scene.height) for t in scene.things) == 1:
                return thing, noun(rng, want)
    return None


def _ask_attribute(kind: str, forms: Sequence[str]) -> Callable[[Random, Scene], Query | None]:
    def ask(rng: Random, scene: Scene) -> Query | None:
        """Ask; for what has no name, any answer does: then none is ruled out by what else is said."""
        found = _pointing(rng, scene, without=kind)
        if found is None:
            return None
        thing, pointed = found
        known = thing.names(kind)
        return Query(
            kind=kind,
            text=rng.choice(forms).format(pointed),
            answer=getattr(thing, kind) if known else rng.choice(NAMES[kind]),
            mentions=(Mention(pointed, thing),),
        )

    return ask


def _ask_exists(rng: Random, scene: Scene) -> Query | None:
    if not all(thing.names(name) for thing in scene.things for name in ("shape", "colour")):
        return None
    model = rng.choice(scene.things)
    size = model.size if rng.random() < 0.25 else None
    want = Want(shape=model.shape, colour=model.colour if rng.random() < 0.75 else None, size=size)
    if rng.random() < 0.5:
        changed = rng.choice(("shape", "colour")) if want.colour else "shape"
        values = SHAPES if changed == "shape" else COLOURS
        want = replace(want, **{changed: rng.choice(values)})
    meant = [t for t in scene.things if want.holds(t, scene.width, scene.height)]
    if not meant and _is_never_there(want) and not any(map(is_held_out, scene.things)):
        return None
    words = noun(rng, want)
    form = rng.choice(
        ("is there {}?", "is there {} in the picture?", "do you see {}?", "does the picture show {}?")
    )
    return Query(
        kind="exists",
        text=form.format(with_article(words)),
        answer="yes" if meant else "no",
        mentions=(Mention(words, meant[0] if meant else None),) if len(meant) < 2 else (),
    )


def _is_never_there(want: Want) -> bool:
    """Say whether training, were it to ask for this, would only ever answer no."""
    return (want.shape, want.colour) in HELD_OUT


def _ask_relation(rng: Random, scene: Scene) -> Query | None:
    pairs = [(a, b) for a, b in permutations(scene.things, 2) if relations(a, b)]
    rng.shuffle(pairs)
    for a, b in pairs:
        first, second = reference(rng, a, scene), reference(rng, b, scene)
        if first and second:
            held = relations(a, b)
            relation = rng.choice(sorted(held))
            if rng.random() < 0.5:
                away = [r for r in RELATIONS if r not in held]
                relation = OPPOSITE[relation] if rng.random() < 0.6 else rng.choice(away)
            text = f"is {first} {rng.choice(RELATION_WORDS[relation])} {second}?"
            return Query(
                kind="relation",
                text=text,
                answer="yes" if relation in held else "no",
                mentions=(Mention(first, a), Mention(second, b)),
            )
    return None


def _ask_background(rng: Random, scene: Scene) -> Query:
    forms = (
        "what colour is the background?",
        "what color is the background?",
        "which colour is the background?",
        "what is the background colour?",
    )
    return Query(kind="background", text=rng.choice(forms), answer=scene.background)


def _ask_position(rng: Random, scene: Scene) -> Query | None:
    thing = rng.choice(scene.things)
    pointed = reference(rng, thing, scene)
    if pointed is None:
        return None
    forms = ("where is {}?", "where in the picture is {}?")
    return Query(
        kind="position",
        text=rng.choice(forms).format(pointed),
        answer=region(thing, scene.width, scene.height),
        mentions=(Mention(pointed, thing),),
    )


def _ask_description(rng: Random, scene: Scene) -> Query:
    forms = ("describe the picture.", "describe the image.", "what do you see?", "what is in the picture?")
    return Query(kind="description", text=rng.choice(forms), answer=describe(scene))


QUESTIONS: dict[str, Callable[[Random, Scene], Query | None]] = {
    "count": _ask_count,
    "colour": _ask_attribute(
        "colour", ("what colour is the {}?", "what color is the {}?", "which colour does the {} have?")
    ),
    "shape": _ask_attribute("shape", ("what shape is the {}?", "which shape is the {}?", "what is the {}?")),
    "size": _ask_attribute(
        "size", ("what size is the {}?", "is the {} small or large?", "is the {} large or small?")
    ),
    "exists": _ask_exists,
    "relation": _ask_relation,
    "background": _ask_background,
    "position": _ask_position,
    "description": _ask_description,
}
SCORED_QUESTIONS = tuple(kind for kind in QUESTIONS if kind != "description")


def question(rng: Random, scene: Scene, kind: str) -> Query | None:
    """Ask one question of a kind; None when the scene does not allow it."""
    query = QUESTIONS[kind](rng, scene)
    if query is None or rng.random() >= 0.5:
        return query
    return replace(query, text=query.text[0].upper() + query.text[1:])
