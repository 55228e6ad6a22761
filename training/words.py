"""English about scenes: captions with what they demand, instructions with what they change, questions with answers.

A caption comes with its `Wish`, an instruction with its `Edit`; the same data makes training samples and scores
pictures, so a sentence can never mean one thing in training and another in the evaluation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from random import Random

from training.world import (
    BACKGROUNDS,
    COLOURS,
    RADII,
    RELATIONS,
    SHAPES,
    Kind,
    Scene,
    Thing,
    build,
    fits,
    is_held_out,
    kind_of,
    place,
    random_kind,
    region,
    relations,
)

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
    "{}", "{}", "{}", "{}", "a picture of {}", "an image of {}", "draw {}", "please draw {}", "a drawing with {}",
    "show {}", "show me {}", "there is {}", "an image with {}", "make a picture with {}", "{}, nothing else",
)  # fmt: skip
GROUNDS = (
    "{} on a {} background", "{} on a {} background", "{} against a {} background", "{}, {} background",
    "{} on {}", "{} with a {} background",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What one thing must be; None is left to the painter."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    region: str | None = None

    def holds(self, thing: Thing, width: int, height: int) -> bool:
        """Say whether a thing is as wanted."""
        return (
            self.shape in (None, thing.shape)
            and self.colour in (None, thing.colour)
            and self.size in (None, thing.size)
            and self.region in (None, region(thing, width, height))
        )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """A sentence that asks for a picture, a scene that it fits, and all that it demands."""

    kind: str
    text: str
    wish: Wish
    scene: Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """An instruction, the scene before, one right scene after, and what must hold.

    Attributes:
        kept: Things that must stay what and where they were.
        wish: What the whole picture must show afterwards.
    """

    operation: str
    text: str
    before: Scene
    after: Scene
    kept: tuple[Thing, ...]
    wish: Wish

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question about a scene and its one right answer."""

    kind: str
    text: str
    answer: str


# Words ------------------------------------------------------------------------------------------------------


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


def _with_article(text: str) -> str:
    return ("an " if text[0] in "aeio" else "a ") + text


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _framed(rng: Random, text: str, background: str | None) -> str:
    if background is not None:
        if rng.random() < 0.12:
            text = f"on a {colour_word(rng, background)} background, {text}"
        else:
            text = rng.choice(GROUNDS).format(text, colour_word(rng, background))
    text = rng.choice(FRAMES).format(text)
    return _polished(rng, text)


def _polished(rng: Random, text: str, end: str = ".") -> str:
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    return text + end if rng.random() < 0.3 else text


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


# Captions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """How scenes are made for a sample.

    Attributes:
        held_out: One thing is of a held-out pair; otherwise none is.
        lattice: Things stand near the centres of the lattice's cells.
    """

    width: int = 64
    height: int = 64
    held_out: bool = False
    lattice: bool = True

    def kinds(self, rng: Random, background: str, count: int) -> list[Kind]:
        """Draw kinds for a scene."""
        kinds = [random_kind(rng, background) for _ in range(count)]
        if self.held_out and kinds:
            kinds[rng.randrange(count)] = random_kind(rng, background, held_out=True)
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


def _want(
    rng: Random, thing: Thing | Kind, *, size: float = 0.5, colour: float = 1.0, shape: float = 1.0
) -> Want:
    return Want(
        shape=thing.shape if rng.random() < shape else None,
        colour=thing.colour if rng.random() < colour else None,
        size=thing.size if rng.random() < size else None,
    )


def _background(rng: Random, scene: Scene, share: float = 0.6) -> str | None:
    return scene.background if rng.random() < share else None


def single(rng: Random, canvas: Canvas) -> Caption:
    """One thing: "a small red circle on a green background"."""
    ground = rng.choice(BACKGROUNDS)
    scene = canvas.scene(rng, ground, canvas.kinds(rng, ground, 1))
    want = _want(rng, scene.things[0], colour=1.0 if canvas.held_out else 0.9)
    wish = Wish(wants=(want,), background=_background(rng, scene))
    return Caption(kind="single", text=_listed(rng, wish), wish=wish, scene=scene)


def colours(rng: Random, canvas: Canvas) -> Caption:
    """One thing whose colour and background both are named."""
    ground = rng.choice(BACKGROUNDS)
    scene = canvas.scene(rng, ground, canvas.kinds(rng, ground, 1))
    wish = Wish(wants=(_want(rng, scene.things[0], size=0.0),), background=ground)
    return Caption(kind="colours", text=_listed(rng, wish), wish=wish, scene=scene)


def two_objects(rng: Random, canvas: Canvas) -> Caption:
    """Two things of different shapes, often without colours."""
    ground = rng.choice(BACKGROUNDS)
    kinds = canvas.kinds(rng, ground, 2)
    while kinds[0].shape == kinds[1].shape:
        kinds = canvas.kinds(rng, ground, 2)
    scene = canvas.scene(rng, ground, kinds)
    share = 1.0 if canvas.held_out else 0.6
    wants = tuple(_want(rng, t, size=0.3, colour=share) for t in scene.things)
    wish = Wish(wants=wants, background=_background(rng, scene))
    return Caption(kind="two_objects", text=_listed(rng, wish), wish=wish, scene=scene)


def binding(rng: Random, canvas: Canvas) -> Caption:
    """Two to four things, each with its colour."""
    ground = rng.choice(BACKGROUNDS)
    kinds = canvas.kinds(rng, ground, rng.choice((2, 2, 2, 3, 4)))
    scene = canvas.scene(rng, ground, kinds)
    wish = Wish(
        wants=tuple(_want(rng, t, size=0.3) for t in scene.things), background=_background(rng, scene)
    )
    return Caption(kind="binding", text=_listed(rng, wish), wish=wish, scene=scene)


def counting(rng: Random, canvas: Canvas) -> Caption:
    """Some things of one sort: "three red circles"; now and then one other thing beside them."""
    ground = rng.choice(BACKGROUNDS)
    count = rng.choice((2, 2, 3, 3, 4, 4, 1))
    model = canvas.kinds(rng, ground, 1)[0]
    kinds = [replace(model, size=rng.choice(tuple(RADII))) for _ in range(count)]
    want = Want(shape=model.shape, colour=model.colour)
    if not canvas.held_out and rng.random() < 0.35:
        kinds = [_other_colour(rng, kind, ground) for kind in kinds]
        want = Want(shape=model.shape)
    elif rng.random() < 0.3:
        kinds = [model] * count
        want = Want(shape=model.shape, colour=model.colour, size=model.size)
    scene = canvas.scene(rng, ground, kinds)
    wish = Wish(wants=(want,) * count, background=_background(rng, scene))
    text = f"{rng.choice((NUMBER_WORDS[count], NUMBER_WORDS[count], str(count)))} {noun(rng, want, count)}"
    if rng.random() < 0.15:
        text = text.replace("one ", "exactly one ") if count == 1 else "exactly " + text
    return Caption(kind="counting", text=_framed(rng, text, wish.background), wish=wish, scene=scene)


def _other_colour(rng: Random, kind: Kind, ground: str) -> Kind:
    free = [c for c in COLOURS if c != ground and not is_held_out(replace(kind, colour=c))]
    return replace(kind, colour=rng.choice(free))


def position(rng: Random, canvas: Canvas) -> Caption:
    """Two things and how they lie, or one thing and where it stands."""
    ground = rng.choice(BACKGROUNDS)
    if rng.random() < 0.25:
        scene = canvas.scene(rng, ground, canvas.kinds(rng, ground, 1))
        where = region(scene.things[0], scene.width, scene.height)
        want = replace(_want(rng, scene.things[0], size=0.3), region=where)
        wish = Wish(wants=(want,), background=_background(rng, scene, 0.5))
        text = _with_article(noun(rng, want)) + " " + rng.choice(REGION_WORDS[where])
        return Caption(kind="position", text=_framed(rng, text, wish.background), wish=wish, scene=scene)
    while True:
        scene = canvas.scene(rng, ground, canvas.kinds(rng, ground, 2))
        held = sorted(relations(scene.things[0], scene.things[1]))
        if held and (scene.things[0].shape, scene.things[0].colour) != (
            scene.things[1].shape,
            scene.things[1].colour,
        ):
            break
    relation = rng.choice(held)
    first, second = (_want(rng, t, size=0.2) for t in scene.things)
    wish = Wish(wants=(first, second), relations=((0, relation, 1),), background=_background(rng, scene, 0.5))
    text = _related(rng, wish, relation)
    return Caption(kind="position", text=_framed(rng, text, wish.background), wish=wish, scene=scene)


def _related(rng: Random, wish: Wish, relation: str) -> str:
    first, second = (_with_article(noun(rng, want)) for want in wish.wants)
    if rng.random() < 0.2:
        there = {"left": "to its left", "right": "to its right", "above": "above it", "below": "below it"}
        return f"{second} with {first} {there[relation]}"
    return f"{first} {rng.choice(RELATION_WORDS[relation])} {second}"


def _listed(rng: Random, wish: Wish) -> str:
    text = _joined([_with_article(noun(rng, want)) for want in wish.wants])
    if rng.random() < 0.06:
        absent = [s for s in SHAPES if all(want.shape != s for want in wish.wants)]
        text += rng.choice((" and no {}", " without any {}", " but no {}")).format(
            noun(rng, Want(shape=rng.choice(absent)), 2)
        )
    return _framed(rng, text, wish.background)


CAPTIONS: dict[str, Callable[[Random, Canvas], Caption]] = {
    "single": single,
    "two_objects": two_objects,
    "counting": counting,
    "colours": colours,
    "position": position,
    "binding": binding,
}


# Edits ------------------------------------------------------------------------------------------------------


def reference(rng: Random, thing: Thing, scene: Scene) -> str | None:
    """Point at one thing so that nothing else can be meant: "the red circle"; None when nothing serves."""
    wants = [
        Want(shape=thing.shape),
        Want(colour=thing.colour),
        Want(shape=thing.shape, colour=thing.colour),
        Want(shape=thing.shape, colour=thing.colour),
        Want(shape=thing.shape, size=thing.size),
        Want(shape=thing.shape, colour=thing.colour, size=thing.size),
    ]
    rng.shuffle(wants)
    for want in wants:
        if sum(want.holds(other, scene.width, scene.height) for other in scene.things) == 1:
            return "the " + noun(rng, want)
    return None


def _exact(thing: Thing) -> Want:
    return Want(shape=thing.shape, colour=thing.colour, size=thing.size)


def _edit_scene(rng: Random, canvas: Canvas, most: int = 3) -> tuple[Scene, int, str]:
    while True:
        ground = rng.choice(BACKGROUNDS)
        scene = canvas.scene(rng, ground, canvas.kinds(rng, ground, rng.randint(1, most)))
        target = rng.randrange(len(scene.things))
        pointed = reference(rng, scene.things[target], scene)
        if pointed is not None:
            return scene, target, pointed


def _changed(scene: Scene, target: int, thing: Thing | None) -> Scene:
    rest = scene.things[:target] + scene.things[target + 1 :]
    return replace(scene, things=rest if thing is None else (*rest, thing))


def _finished(
    rng: Random, operation: str, text: str, before: Scene, after: Scene, wish: Wish, kept: tuple[Thing, ...]
) -> Edit:
    return Edit(
        operation=operation, text=_polished(rng, text), before=before, after=after, wish=wish, kept=kept
    )


def _full_wish(kept: tuple[Thing, ...], background: str, *extra: Want) -> Wish:
    return Wish(wants=(*map(_exact, kept), *extra), background=background)


def recolour(rng: Random, canvas: Canvas) -> Edit:
    """Give one thing another colour."""
    while True:
        scene, target, pointed = _edit_scene(rng, canvas)
        old = scene.things[target]
        free = [c for c in COLOURS if c not in (old.colour, scene.background)]
        new = replace(old, colour=rng.choice(free))
        if not is_held_out(new):
            break
    colour = colour_word(rng, new.colour)
    forms = (
        "make {} {}",
        "change {} to {}",
        "turn {} {}",
        "paint {} {}",
        "change the colour of {} to {}",
        "recolor {} to {}",
    )
    after = _changed(scene, target, new)
    kept = after.things[:-1]
    text = rng.choice(forms).format(pointed, colour)
    wish = _full_wish(kept, scene.background, _exact(new))
    return _finished(rng, "recolour", text, scene, after, wish, kept)


def replace_thing(rng: Random, canvas: Canvas) -> Edit:
    """Put another shape in the place of one thing, of the same colour or another."""
    while True:
        scene, target, pointed = _edit_scene(rng, canvas)
        old = scene.things[target]
        shape = rng.choice([s for s in SHAPES if s != old.shape])
        colour = old.colour if rng.random() < 0.5 else rng.choice(COLOURS)
        new = replace(old, shape=shape, colour=colour)
        after = _changed(scene, target, new)
        if (
            colour != scene.background
            and not is_held_out(new)
            and fits(new, after.things[:-1], scene.width, scene.height)
        ):
            break
    named = colour != old.colour or rng.random() < 0.4
    want = Want(shape=shape, colour=colour if named else None)
    forms = ("replace {} with {}", "change {} into {}", "turn {} into {}", "swap {} for {}")
    text = rng.choice(forms).format(pointed, _with_article(noun(rng, want)))
    wish = _full_wish(after.things[:-1], scene.background, Want(shape=shape, colour=colour, size=old.size))
    return _finished(rng, "replace", text, scene, after, wish, after.things[:-1])


def remove(rng: Random, canvas: Canvas) -> Edit:
    """Take one thing away."""
    while True:
        scene, target, pointed = _edit_scene(rng, canvas, most=4)
        if len(scene.things) > 1:
            break
    after = _changed(scene, target, None)
    text = rng.choice(("remove {}", "delete {}", "take away {}", "erase {}", "get rid of {}")).format(pointed)
    return _finished(
        rng, "remove", text, scene, after, _full_wish(after.things, scene.background), after.things
    )


def add(rng: Random, canvas: Canvas) -> Edit:
    """Add a thing, somewhere, in a named place, or beside another thing."""
    while True:
        scene, target, pointed = _edit_scene(rng, canvas)
        kind = random_kind(rng, scene.background)
        new = place(rng, kind, scene.things, scene.width, scene.height, lattice=canvas.lattice)
        if new is not None:
            break
    want = _want(rng, new, size=0.4)
    wish = _full_wish(scene.things, scene.background, want)
    where, choice = "", rng.random()
    held = sorted(relations(new, scene.things[target]))
    if choice < 0.4 and held:
        relation = rng.choice(held)
        where = f" {rng.choice(RELATION_WORDS[relation])} {pointed}"
        wish = replace(wish, relations=((len(scene.things), relation, target),))
    elif choice < 0.65:
        name = region(new, scene.width, scene.height)
        where = " " + rng.choice(REGION_WORDS[name])
        wish = replace(wish, wants=(*wish.wants[:-1], replace(want, region=name)))
    verb = rng.choice(("add", "put", "draw", "place") if where else ("add", "draw"))
    text = f"{verb} {_with_article(noun(rng, want))}{where}"
    after = replace(scene, things=(*scene.things, new))
    return _finished(rng, "add", text, scene, after, wish, scene.things)


def move(rng: Random, canvas: Canvas) -> Edit:
    """Move one thing to a named place or beside another thing."""
    while True:
        scene, target, pointed = _edit_scene(rng, canvas)
        old = scene.things[target]
        rest = scene.things[:target] + scene.things[target + 1 :]
        new = place(rng, kind_of(old), rest, scene.width, scene.height, lattice=canvas.lattice)
        if new is None or region(new, scene.width, scene.height) == region(old, scene.width, scene.height):
            continue
        new = replace(old, x=new.x, y=new.y)
        if fits(new, rest, scene.width, scene.height):
            break
    after = replace(scene, things=(*rest, new))
    where = region(new, scene.width, scene.height)
    want = replace(_exact(new), region=where)
    goal = (
        rng.choice(REGION_WORDS[where])
        .replace("in the", "to the")
        .replace("at the", "to the")
        .replace("on the", "to the")
    )
    wish = _full_wish(rest, scene.background, want)
    if rest and rng.random() < 0.4:
        other = rng.choice(rest)
        held = sorted(relations(new, other) - relations(old, other))
        beside = reference(rng, other, scene)
        if held and beside:
            relation = rng.choice(held)
            goal = f"{rng.choice(RELATION_WORDS[relation][:2])} {beside}"
            wish = replace(
                _full_wish(rest, scene.background, _exact(new)),
                relations=((len(rest), relation, rest.index(other)),),
            )
    text = rng.choice(("move {} {}", "move {} {}", "shift {} {}", "put {} {}")).format(pointed, goal)
    return _finished(rng, "move", text, scene, after, wish, rest)


def change_background(rng: Random, canvas: Canvas) -> Edit:
    """Give the picture another background."""
    while True:
        scene, _, _ = _edit_scene(rng, canvas)
        taken = {scene.background, *(t.colour for t in scene.things)}
        free = [c for c in BACKGROUNDS if c not in taken]
        if free:
            break
    ground = rng.choice(free)
    forms = (
        "change the background to {}",
        "make the background {}",
        "turn the background {}",
        "use a {} background",
        "put it on a {} background",
    )
    text = rng.choice(forms).format(colour_word(rng, ground))
    after = replace(scene, background=ground)
    return _finished(rng, "background", text, scene, after, _full_wish(scene.things, ground), scene.things)


EDITS: dict[str, Callable[[Random, Canvas], Edit]] = {
    "recolour": recolour,
    "replace": replace_thing,
    "remove": remove,
    "add": add,
    "move": move,
    "background": change_background,
}


# Questions --------------------------------------------------------------------------------------------------


def _ask_count(rng: Random, scene: Scene) -> Query:
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
        attributes = {name: getattr(thing, name) for name in ("shape", "colour", "size") if name != without}
        subsets = [tuple(attributes), *((name,) for name in attributes)]
        rng.shuffle(subsets)
        for names in subsets:
            want = Want(**{name: attributes[name] for name in names})
            if sum(want.holds(t, scene.width, scene.height) for t in scene.things) == 1:
                return thing, noun(rng, want)
    return None


def _ask_attribute(kind: str, forms: Sequence[str]) -> Callable[[Random, Scene], Query | None]:
    def ask(rng: Random, scene: Scene) -> Query | None:
        found = _pointing(rng, scene, without=kind)
        if found is None:
            return None
        thing, pointed = found
        return Query(kind=kind, text=rng.choice(forms).format(pointed), answer=getattr(thing, kind))

    return ask


def _ask_exists(rng: Random, scene: Scene) -> Query:
    model = rng.choice(scene.things)
    size = model.size if rng.random() < 0.25 else None
    want = Want(shape=model.shape, colour=model.colour if rng.random() < 0.75 else None, size=size)
    if rng.random() < 0.5:
        changed = rng.choice(("shape", "colour")) if want.colour else "shape"
        values = SHAPES if changed == "shape" else COLOURS
        want = replace(want, **{changed: rng.choice(values)})
    there = any(want.holds(t, scene.width, scene.height) for t in scene.things)
    form = rng.choice(
        ("is there {}?", "is there {} in the picture?", "do you see {}?", "does the picture show {}?")
    )
    return Query(
        kind="exists", text=form.format(_with_article(noun(rng, want))), answer="yes" if there else "no"
    )


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
            return Query(kind="relation", text=text, answer="yes" if relation in held else "no")
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
