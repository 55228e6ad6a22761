"""English for the shapes world: nouns, synonyms, sentence frames, and plain words for scenes and wishes."""

from collections.abc import Sequence
from random import Random

from training.wishes import Want, Wish
from training.world import Scene, Thing, region

SHAPE_WORDS = {
    "circle": ("circle", "circle", "circle", "disc"),
    "square": ("square",),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "cross", "plus sign"),
    "diamond": ("diamond", "diamond", "diamond", "rhombus"),
}
PLURALS = {
    "cross": "crosses",
    "rhombus": "rhombuses",
    "thing": "things",
    "shape": "shapes",
    "object": "objects",
}
COLOUR_WORDS = {"purple": ("purple", "purple", "purple", "violet"), "gray": ("gray", "grey")}
SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "big")}
NUMBER_WORDS = ("no", "one", "two", "three", "four")
RELATION_WORDS = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
REGION_WORDS = {
    "top left": ("in the top left corner", "at the top left"),
    "top": ("at the top", "in the top middle"),
    "top right": ("in the top right corner", "at the top right"),
    "left": ("on the left", "at the left side"),
    "centre": ("in the centre", "in the middle", "in the center"),
    "right": ("on the right", "at the right side"),
    "bottom left": ("in the bottom left corner", "at the bottom left"),
    "bottom": ("at the bottom", "in the bottom middle"),
    "bottom right": ("in the bottom right corner", "at the bottom right"),
}
FRAMES = (
    "{}", "{}", "{}", "{}", "a picture of {}", "an image of {}", "draw {}", "please draw {}",
    "a drawing with {}", "show {}", "show me {}", "there is {}", "an image with {}", "make a picture with {}",
    "{}, nothing else",
)  # fmt: skip
GROUNDS = (
    "{} on a {} background", "{} on a {} background", "{} against a {} background", "{}, {} background",
    "{} on {}", "{} with a {} background",
)  # fmt: skip


def colour_word(rng: Random, colour: str) -> str:
    """Name a colour, now and then by a synonym."""
    return rng.choice(COLOUR_WORDS.get(colour, (colour,)))


def noun(rng: Random, want: Want, count: int = 1) -> str:
    """Name what is wanted without an article: "small red circles"."""
    words = []
    if want.size:
        words.append(rng.choice(SIZE_WORDS[want.size]))
    if want.colour:
        words.append(colour_word(rng, want.colour))
    head = rng.choice(SHAPE_WORDS[want.shape]) if want.shape else rng.choice(("shape", "thing", "object"))
    words.append(head if count == 1 else PLURALS.get(head, head + "s"))
    return " ".join(words)


def reference(rng: Random, thing: Thing, scene: Scene) -> str | None:
    """Point at one thing so that nothing else can be meant: "the red circle"; None when nothing serves."""
    subsets = [
        ("shape",),
        ("colour",),
        ("shape", "colour"),
        ("shape", "colour"),
        ("shape", "size"),
        ("shape", "colour", "size"),
    ]
    rng.shuffle(subsets)
    for names in subsets:
        if not all(map(thing.names, names)):
            continue
        want = Want.like(thing, *names)
        if sum(want.holds(other, scene.width, scene.height) for other in scene.things) == 1:
            return "the " + noun(rng, want)
    return None


def with_article(text: str) -> str:
    """Put "a" or "an" before a noun."""
    return ("an " if text[0] in "aeio" else "a ") + text


def joined(parts: Sequence[str]) -> str:
    """List parts: "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def framed(rng: Random, text: str, background: str | None) -> str:
    """Make a request for a picture out of what it shows, on a background if one is named."""
    if background is not None:
        if rng.random() < 0.12:
            text = f"on a {colour_word(rng, background)} background, {text}"
        else:
            text = rng.choice(GROUNDS).format(text, colour_word(rng, background))
    text = rng.choice(FRAMES).format(text)
    return polished(rng, text)


def polished(rng: Random, text: str) -> str:
    """Now and then begin with a capital, now and then end with a full stop."""
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.3 else text


def describe(scene: Scene) -> str:
    """Say all that a picture shows, in reading order: what the understanding expert answers to "describe"."""
    things = sorted(scene.things, key=lambda t: (round(t.y / 16), t.x))
    parts = [f"{t.size} {t.colour} {t.shape} {region(t, scene.width, scene.height)}" for t in things]
    return f"{len(parts)}: " + ", ".join(parts) + f"; {scene.background} background"


def parse(wish: Wish) -> str:
    """Say all that a wish demands, in the order it was wished: what a prompt means, without a picture."""
    parts = []
    for i, want in enumerate(wish.wants):
        words = [word for word in (want.size, want.colour, want.shape or "shape", want.region) if word]
        words += [f"{relation} of {wish.wants[j].shape}" for k, relation, j in wish.relations if k == i]
        parts.append(" ".join(words))
    return f"{len(parts)}: " + ", ".join(parts) + f"; {wish.background or 'any'} background"
