"""The shapes world: scenes of one to four coloured shapes on a plain background, drawn anti-aliased.

Everything is exact: a scene is plain data, so captions, edits and answers about it are true by construction.
Positions are in pixels from the top left corner, x to the right, y down.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from random import Random

from PIL import Image, ImageDraw

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 40),
    "orange": (246, 140, 28),
    "yellow": (246, 222, 50),
    "green": (40, 160, 72),
    "blue": (42, 84, 216),
    "purple": (142, 58, 180),
    "white": (250, 250, 250),
    "black": (18, 18, 18),
    "gray": (134, 134, 134),
    "pink": (246, 172, 192),
    "cyan": (80, 206, 214),
}
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
BACKGROUNDS = ("white", "black", "gray", "pink", "cyan", "green", "yellow", "blue")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
RADII = {"small": 5.0, "large": 8.5}
NAMES = {"shape": SHAPES, "colour": COLOURS, "size": tuple(RADII)}
"""What is said of a thing, and every word for it."""
CELL = 16
"""Side of a lattice cell in pixels: one token of the diffusion transformer."""
GAP = 3.0
"""Clear pixels between two things, and between a thing and the edge of the picture (at least 1)."""
MARGIN = 8.0
"""Pixels by which one thing must lie beyond another before a relation holds."""
HELD_OUT = frozenset(
    {
        ("circle", "purple"),
        ("square", "orange"),
        ("triangle", "white"),
        ("star", "blue"),
        ("cross", "red"),
        ("diamond", "green"),
    }
)
"""Pairs of shape and colour that no training sample of any stage shows."""
RELATIONS = ("left", "right", "above", "below")
REGIONS = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)


def _star() -> tuple[tuple[float, float], ...]:
    points = []
    for i in range(10):
        reach = 1.3 if i % 2 == 0 else 0.52
        angle = math.pi * (i / 5 - 0.5)
        points.append((reach * math.cos(angle), reach * math.sin(angle)))
    return tuple(points)


def _cross(arm: float = 1.12, half: float = 0.38) -> tuple[tuple[float, float], ...]:
    quarter = [(half, -arm), (half, -half), (arm, -half)]
    points = []
    for _ in range(4):
        points += quarter
        quarter = [(-y, x) for x, y in quarter]
    return tuple(points)


OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": tuple((math.cos(math.tau * i / 48), math.sin(math.tau * i / 48)) for i in range(48)),
    "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "triangle": ((0.0, -1.12), (1.12, 0.84), (-1.12, 0.84)),
    "star": _star(),
    "cross": _cross(),
    "diamond": ((0.0, -1.24), (0.92, 0.0), (0.0, 1.24), (-0.92, 0.0)),
}
"""Corners of each shape around its centre, for radius 1."""
BETWEEN = "~"
"""Joins two shapes to the name of the one half-way between them."""


@lru_cache(maxsize=256)
def outline(shape: str) -> tuple[tuple[float, float], ...]:
    """Return a shape's corners for radius 1: of one that has a name, or of one between two."""
    if shape in OUTLINES:
        return OUTLINES[shape]
    first, second = shape.split(BETWEEN)
    angles = [math.tau * i / 60 for i in range(60)]
    reaches = [(_reach_at(first, angle) + _reach_at(second, angle)) / 2 for angle in angles]
    return tuple((r * math.cos(a), r * math.sin(a)) for r, a in zip(reaches, angles, strict=True))


def _reach_at(shape: str, angle: float) -> float:
    """Return how far a shape reaches in a direction: every ray from the centre leaves it once."""
    x, y = math.cos(angle), math.sin(angle)
    corners = OUTLINES[shape]
    reaches = []
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        dx, dy = bx - ax, by - ay
        across = x * dy - y * dx
        if abs(across) > 1e-9:
            along, on = (ax * dy - ay * dx) / across, (ax * y - ay * x) / across
            if along > 0 and -1e-9 <= on <= 1 + 1e-9:
                reaches.append(along)
    return max(reaches)


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """A shape somewhere in a picture."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def reach(self) -> float:
        """Distance from the centre to the furthest corner, in pixels."""
        return self.radius * max(math.hypot(x, y) for x, y in outline(self.shape))

    def names(self, attribute: str) -> bool:
        """Say whether there is a word for the thing's shape, colour or size."""
        return getattr(self, attribute) in NAMES[attribute]


@dataclass(frozen=True, slots=True)
class Scene:
    """A whole picture."""

    background: str
    things: tuple[Thing, ...]
    width: int = 64
    height: int = 64


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What a thing is, wherever it stands."""

    shape: str
    colour: str
    size: str


def kind_of(thing: Thing) -> Kind:
    """Forget where a thing stands."""
    return Kind(thing.shape, thing.colour, thing.size)


def shows_the_same(read: Scene, meant: Scene) -> bool:
    """Say whether two scenes have the same background and the same kinds of things, wherever they stand."""
    return read.background == meant.background and sorted(map(kind_of, read.things)) == sorted(
        map(kind_of, meant.things)
    )


def is_held_out(thing: Thing | Kind) -> bool:
    """Say whether training never shows this pair of shape and colour."""
    return (thing.shape, thing.colour) in HELD_OUT


def render(scene: Scene, *, oversampling: int = 4) -> Image.Image:
    """Draw a scene as an RGB picture, anti-aliased by drawing larger and averaging."""
    scale = oversampling
    canvas = Image.new("RGB", (scene.width * scale, scene.height * scale), PALETTE[scene.background])
    pen = ImageDraw.Draw(canvas)
    for thing in scene.things:
        corners = [
            ((thing.x + x * thing.radius) * scale - 0.5, (thing.y + y * thing.radius) * scale - 0.5)
            for x, y in outline(thing.shape)
        ]
        pen.polygon(corners, fill=PALETTE.get(thing.colour, thing.colour))
    return canvas.reduce(scale)


def relations(a: Thing, b: Thing) -> frozenset[str]:
    """Return how a lies to b: the direction in which they differ most, both on a diagonal."""
    dx, dy = a.x - b.x, a.y - b.y
    held = set()
    if abs(dx) >= MARGIN and abs(dx) >= abs(dy) - 2:
        held.add("left" if dx < 0 else "right")
    if abs(dy) >= MARGIN and abs(dy) >= abs(dx) - 2:
        held.add("above" if dy < 0 else "below")
    return frozenset(held)


def region(thing: Thing, width: int, height: int) -> str:
    """Name the ninth of the picture that holds the thing's centre."""
    column = min(int(3 * thing.x / width), 2)
    row = min(int(3 * thing.y / height), 2)
    return REGIONS[row][column]


def fits(thing: Thing, others: Sequence[Thing], width: int, height: int) -> bool:
    """Say whether the thing lies inside the picture and clear of the others."""
    reach = thing.reach
    if not (reach <= thing.x <= width - reach and reach <= thing.y <= height - reach):
        return False
    return all(math.hypot(thing.x - o.x, thing.y - o.y) >= reach + o.reach + GAP for o in others)


def random_kind(rng: Random, background: str, *, held_out: bool = False) -> Kind:
    """Draw a kind that shows on the background; a held-out one only when asked."""
    while True:
        kind = Kind(rng.choice(SHAPES), rng.choice(COLOURS), rng.choice(("small", "large")))
        if kind.colour != background and is_held_out(kind) == held_out:
            return kind


def place(
    rng: Random, kind: Kind, others: Sequence[Thing], width: int, height: int, *, lattice: bool = True
) -> Thing | None:
    """Put a thing at a free place, near the centre of a lattice cell or anywhere; None when there is none."""
    spots = _lattice_spots(rng, width, height) if lattice else _free_spots(rng, width, height)
    for x, y in spots:
        radius = RADII[kind.size] * rng.uniform(0.94, 1.06)
        thing = Thing(kind.shape, kind.colour, kind.size, x, y, radius)
        pulled = _pulled_inside(thing, width, height)
        if fits(pulled, others, width, height):
            return pulled
    return None


def _lattice_spots(rng: Random, width: int, height: int) -> Iterator[tuple[float, float]]:
    cells = list(product(range(width // CELL), range(height // CELL)))
    rng.shuffle(cells)
    for column, row in cells:
        yield (
            (column + 0.5) * CELL + rng.uniform(-1.5, 1.5),
            (row + 0.5) * CELL + rng.uniform(-1.5, 1.5),
        )


def _free_spots(rng: Random, width: int, height: int) -> Iterator[tuple[float, float]]:
    for _ in range(60):
        yield rng.uniform(0, width), rng.uniform(0, height)


def _pulled_inside(thing: Thing, width: int, height: int) -> Thing:
    reach = thing.reach
    return replace(
        thing,
        x=min(max(thing.x, reach + 0.5), width - reach - 0.5),
        y=min(max(thing.y, reach + 0.5), height - reach - 0.5),
    )


def build(
    rng: Random,
    background: str,
    kinds: Sequence[Kind],
    *,
    width: int = 64,
    height: int = 64,
    lattice: bool = True,
) -> Scene:
    """Place all kinds in one picture, trying again until they fit.

    Raises:
        ValueError: They do not fit after many tries.
    """
    for _ in range(200):
        things: list[Thing] = []
        for kind in sorted(kinds, key=lambda k: -RADII[k.size]):
            thing = place(rng, kind, things, width, height, lattice=lattice)
            if thing is None:
                break
            things.append(thing)
        else:
            rng.shuffle(things)
            return Scene(background, tuple(things), width, height)
    raise ValueError(f"{len(kinds)} things do not fit in {width}x{height}")


def random_scene(rng: Random, width: int, height: int) -> Scene:
    """Draw any scene of one to four things, none of a held-out pair."""
    background = rng.choice(BACKGROUNDS)
    kinds = [random_kind(rng, background) for _ in range(rng.randint(1, 4))]
    return build(rng, background, kinds, width=width, height=height, lattice=rng.random() < 0.5)
