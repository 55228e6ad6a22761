"""Scores of the shipped model against steps, guidance and size: where its defaults come from.

Run by `hbridge bench quality`; writes benchmarks/results/quality-hbridge-tiny.json, a page and a plot. Cases
and strict scoring are those of `hbridge eval`, on pictures of held-out pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, cast

from matplotlib.figure import Figure
from PIL.Image import Image

from model.drawing import Drawing
from model.family import Family, Size
from training.evaluation import Score, evaluate
from training.painting import paint

STEPS = (5, 10, 20, 40)
GUIDANCE = {"generate": (1.0, 2.0, 3.0, 5.0, 8.0), "edit": (1.0, 1.5, 2.0, 3.0)}
SIZES = (Size(64, 64), Size(96, 64), Size(64, 96), Size(96, 96), Size(128, 128))

Suite = Literal["generate", "edit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one choice of settings scored.

    Attributes:
        table: Where it belongs: among steps and guidances at the default size, or among sizes at the default
            settings.
        seconds: Of a picture, painted in company.
    """

    table: Literal["sampling", "sizes"]
    suite: Suite
    size: str
    num_inference_steps: int
    guidance_scale: float
    right: int
    count: int
    seconds: float

    @property
    def score(self) -> Score:
        """All cases of all kinds together; there are equally many of each."""
        return Score(right=self.right, count=self.count)


class Sampled:
    """A family that draws with settings of ours."""

    def __init__(self, family: Family, **fields: Any) -> None:
        self._family, self._fields = family, fields
        self.seconds, self.num_pictures = 0.0, 0

    def draw(self, drawings: Sequence[Drawing]) -> list[Image]:
        """Paint all drawings packed."""
        begun = perf_counter()
        pictures = paint(self._family, [replace(drawing, **self._fields) for drawing in drawings])
        self.seconds += perf_counter() - begun
        self.num_pictures += len(pictures)
        return pictures

    def answer(self, pairs: Sequence[tuple[Image, str]]) -> list[str]:
        """Answer nothing: settings of pictures do not change answers."""
        raise NotImplementedError


def measure_quality(family: Family, *, per_kind: int, steps: Sequence[int] = STEPS) -> Iterator[Cell]:
    """Score every choice: steps and guidance at the default size, then sizes at the default settings."""
    can = family.capabilities
    for suite in cast(Sequence[Suite], ("generate", "edit")):
        for num_steps, guidance in product(steps, GUIDANCE[suite]):
            fields = {"num_inference_steps": num_steps, "guidance_scale": guidance}
            yield _cell(family, suite, "sampling", can.default_size, fields, per_kind=per_kind)
    usual = {"num_inference_steps": can.num_inference_steps, "guidance_scale": can.guidance_scale}
    for size in SIZES:
        if fits(family, size):
            yield _cell(family, "generate", "sizes", size, usual, per_kind=per_kind)


def fits(family: Family, size: Size) -> bool:
    """Say whether a model makes pictures of a size."""
    can = family.capabilities
    sides = size.width, size.height
    return max(sides) <= can.max_side and size.width * size.height <= can.max_pixels


def _cell(
    family: Family,
    suite: Suite,
    table: Literal["sampling", "sizes"],
    size: Size,
    fields: Mapping[str, Any],
    *,
    per_kind: int,
) -> Cell:
    subject = Sampled(family, **fields)
    asked = size if suite == "generate" else None
    scores = cast(dict[str, Any], evaluate(subject, per_kind=per_kind, size=asked, suites=(suite,)))
    kinds = {kind: each for kind, each in scores[suite]["kinds"].items() if not kind.startswith("(")}
    return Cell(
        table=table,
        suite=suite,
        size=str(size),
        **fields,
        right=sum(each["right"] for each in kinds.values()),
        count=sum(each["count"] for each in kinds.values()),
        seconds=round(subject.seconds / subject.num_pictures, 4),
    )


def report(cells: Sequence[Cell]) -> list[dict[str, object]]:
    """Return cells as plain data, with shares and intervals."""
    return [{**asdict(cell), **cell.score.report()} for cell in cells]


def page(cells: Sequence[Cell], record: str) -> str:
    """Return the page about these cells; the first size is the one that others are held against."""
    parts = [
        "# Scores against steps, guidance and size",
        f"`hbridge bench quality` wrote [{record}.json]({record}.json): shares of pictures that are right in "
        "every respect, with 95 % intervals, all kinds together.",
        f"![scores]({record}.png)",
    ]
    for suite, lines in _sampled(cells).items():
        guidances = [f"{cell.guidance_scale:g}" for cell in next(iter(lines.values()))]
        rows = [["steps \\ guidance", *guidances, "seconds a picture"]]
        for steps, line in lines.items():
            rows.append([str(steps), *map(_shown, line), f"{max(cell.seconds for cell in line):.2f}"])
        parts += [f"## {suite.capitalize()}", table(rows)]
    usual, *_ = sized = [cell for cell in cells if cell.table == "sizes"]
    rows = [["size", "right", f"of {usual.size}", "seconds a picture"]]
    for cell in sized:
        part = f"{cell.right / cell.count / usual.score.share:.2f}" if usual.right else ""
        rows.append([cell.size, _shown(cell), part, f"{cell.seconds:.2f}"])
    return "\n\n".join([*parts, "## Sizes, at the default settings", table(rows)]) + "\n"


def _sampled(cells: Sequence[Cell]) -> dict[Suite, dict[int, list[Cell]]]:
    """Return for each suite and number of steps its cells, in the order in which they were measured."""
    found: dict[Suite, dict[int, list[Cell]]] = {}
    for cell in cells:
        if cell.table == "sampling":
            found.setdefault(cell.suite, {}).setdefault(cell.num_inference_steps, []).append(cell)
    return found


def _shown(cell: Cell) -> str:
    low, high = cell.score.interval
    return f"{cell.score.share:.2f} ({low:.2f} to {high:.2f})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the head first, as a table of Markdown."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(cells: Sequence[Cell], path: Path) -> None:
    """Draw scores by guidance, a line for each number of steps."""
    sampled = _sampled(cells)
    figure = Figure(figsize=(9, 4), layout="constrained")
    all_axes = figure.subplots(1, len(sampled), sharey=True, squeeze=False)[0]
    for axes, (suite, lines) in zip(all_axes, sampled.items(), strict=True):
        for steps, line in lines.items():
            shares = [cell.score.share for cell in line]
            low = [cell.score.share - cell.score.interval[0] for cell in line]
            high = [cell.score.interval[1] - cell.score.share for cell in line]
            at = [cell.guidance_scale for cell in line]
            axes.errorbar(at, shares, yerr=[low, high], marker="o", capsize=3, label=f"{steps} steps")
        axes.set(title=suite, xlabel="guidance scale", ylim=(0, 1))
        axes.legend()
    figure.supylabel("share of pictures right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
