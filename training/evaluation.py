"""Scores on held-out combinations, strictly: in the manner of GenEval, ImgEdit and a VQA test.

The detector reads every picture; one wrong, missing or spare thing fails it. Fixed seeds, so that two
checkpoints are asked the same. The subject is a loaded checkpoint or a running server.

Sources: Ghosh et al. 2023, arXiv:2310.11513 (GenEval's categories); Ye et al. 2025, arXiv:2505.20275
(ImgEdit's operations); Wilson 1927 for the intervals.
"""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Protocol, Self

import httpx
from PIL import Image
from rich.progress import track

from model.drawing import Drawing
from model.family import Family, Size
from model.pipeline import answer
from model.prompt import Turn
from model.question import Question
from training.canvas import Canvas
from training.captions import CAPTIONS
from training.detector import detect
from training.edits import EDITS
from training.painting import paint
from training.questions import SCORED_QUESTIONS, Query, question
from training.sheets import Sheet
from training.world import BACKGROUNDS, Scene, render

Z = 1.959964
"""Standard deviations of a 95 % interval."""
SHOWN_PER_KIND = 8
SUITES = ("generate", "edit", "understand")


class Subject(Protocol):
    """What is examined."""

    def draw(self, drawings: Sequence[Drawing]) -> list[Image.Image]:
        """Make or edit one picture for each drawing."""
        ...

    def answer(self, pairs: Sequence[tuple[Image.Image, str]]) -> list[str]:
        """Answer one question about each picture."""
        ...


class Checkpoint:
    """A loaded family, asked directly."""

    def __init__(self, family: Family) -> None:
        self.family = family

    def draw(self, drawings: Sequence[Drawing]) -> list[Image.Image]:
        """Paint all drawings packed."""
        return paint(self.family, drawings)

    def answer(self, pairs: Sequence[tuple[Image.Image, str]]) -> list[str]:
        """Answer one after another."""
        return [
            answer(self.family, Question(turns=(Turn("user", (picture, text)),), max_tokens=12)).text
            for picture, text in pairs
        ]


class Server:
    """A running service, asked over the wire."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def draw(self, drawings: Sequence[Drawing]) -> list[Image.Image]:
        """Send one request for each drawing."""
        return [self._draw(drawing) for drawing in drawings]

    def answer(self, pairs: Sequence[tuple[Image.Image, str]]) -> list[str]:
        """Send one request for each question."""
        return [
            str(self._post("understand", {"prompt": text, "image": _to_base64(picture)})["answer"])
            for picture, text in pairs
        ]

    def _draw(self, drawing: Drawing) -> Image.Image:
        body: dict[str, object] = {"prompt": drawing.prompt, "seed": drawing.seed}
        if drawing.size is not None:
            body["size"] = str(drawing.size)
        if drawing.images:
            body["image"] = _to_base64(drawing.images[0])
        images = self._post("edit" if drawing.images else "generate", body)["images"]
        assert isinstance(images, list), "the answer holds a list of images"
        return Image.open(io.BytesIO(base64.b64decode(images[0]["b64_json"]))).convert("RGB")

    def _post(self, task: str, body: Mapping[str, object]) -> dict[str, object]:
        response = self._client.post(f"/v1/{task}", json=body)
        response.raise_for_status()
        content: dict[str, object] = response.json()
        return content


def _to_base64(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A share of right cases with its 95 % Wilson interval."""

    right: int
    count: int

    @classmethod
    def of(cls, right: Sequence[bool]) -> Self:
        """Count cases."""
        return cls(right=sum(right), count=len(right))

    @property
    def share(self) -> float:
        """Right over all."""
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the Wilson score interval."""
        n, p = self.count, self.share
        middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
        return max(0.0, middle - half), min(1.0, middle + half)

    def report(self) -> dict[str, object]:
        """Return the score as plain data."""
        low, high = self.interval
        return {**asdict(self), "share": round(self.share, 4), "interval": [round(low, 4), round(high, 4)]}


def evaluate(
    subject: Subject,
    *,
    per_kind: int = 100,
    held_out: bool = True,
    size: Size | None = None,
    sheet: Path | None = None,
    suites: Sequence[str] = SUITES,
) -> dict[str, object]:
    """Run the suites and return their scores as plain data.

    Args:
        subject: What is examined.
        per_kind: Cases of each kind.
        held_out: Every scene holds a pair of shape and colour that training never showed; else none does.
        size: Of the pictures to make; None takes the default.
        sheet: Where to write the contact sheets; the suite's name is added to the file's.
        suites: What to run.
    """
    canvas = Canvas(held_out=held_out)
    if size is not None:
        canvas = Canvas(width=size.width, height=size.height, held_out=held_out)
    run: dict[str, Callable[[], dict[str, Score]]] = {
        "generate": lambda: _generate(subject, per_kind, canvas, size, _named(sheet, "generate")),
        "edit": lambda: _edit(subject, per_kind, canvas, _named(sheet, "edit")),
        "understand": lambda: _understand(subject, per_kind, canvas),
    }
    return {suite: _summary(run[suite]()) for suite in suites}


def _summary(scores: Mapping[str, Score]) -> dict[str, object]:
    kinds = {kind: score for kind, score in scores.items() if not kind.startswith("(")}
    overall = sum(score.share for score in kinds.values()) / len(kinds)
    return {"overall": round(overall, 4), "kinds": {kind: score.report() for kind, score in scores.items()}}


def _named(sheet: Path | None, suite: str) -> Path | None:
    return None if sheet is None else sheet.with_name(f"{sheet.stem}-{suite}.png")


def _generate(
    subject: Subject, count: int, canvas: Canvas, size: Size | None, path: Path | None
) -> dict[str, Score]:
    scores, sheet = {}, Sheet()
    grounds: list[bool] = []
    shuffled: list[bool] = []
    for kind, make in CAPTIONS.items():
        rng = Random(f"generate {kind}")
        cases = [make(rng, canvas) for _ in range(count)]
        pictures = subject.draw([Drawing(prompt=c.text, seed=i, size=size) for i, c in enumerate(cases)])
        scenes = _read(pictures, f"generate {kind}")
        wishes = [case.wish for case in cases]
        right = [wish.is_met(scene) for wish, scene in zip(wishes, scenes, strict=True)]
        scores[kind] = Score.of(right)
        grounds += [w.background == s.background for w, s in zip(wishes, scenes, strict=True) if w.background]
        shuffled += [w.is_met(s) for w, s in zip(wishes, scenes[1:] + scenes[:1], strict=True)]
        for case, picture, ok in islice(zip(cases, pictures, right, strict=True), SHOWN_PER_KIND):
            sheet.add((picture,), case.text, right=ok)
    if path is not None:
        sheet.write(path, columns=8)
    scores["(background as asked)"] = Score.of(grounds)
    scores["(another prompt's wish)"] = Score.of(shuffled)
    return scores


def _edit(subject: Subject, count: int, canvas: Canvas, path: Path | None) -> dict[str, Score]:
    scores, sheet = {}, Sheet()
    kept: list[bool] = []
    for operation, make in EDITS.items():
        rng = Random(f"edit {operation}")
        cases = [make(rng, canvas) for _ in range(count)]
        befores = [render(case.before) for case in cases]
        asked = enumerate(zip(cases, befores, strict=True))
        pictures = subject.draw(
            [Drawing(prompt=c.text, images=(before,), seed=i) for i, (c, before) in asked]
        )
        scenes = _read(pictures, f"edit {operation}")
        right = [case.is_met(scene) for case, scene in zip(cases, scenes, strict=True)]
        scores[operation] = Score.of(right)
        kept += [case.keeps(scene) for case, scene in zip(cases, scenes, strict=True) if case.kept]
        cells = zip(cases, befores, pictures, right, strict=True)
        for case, before, picture, ok in islice(cells, SHOWN_PER_KIND):
            sheet.add((before, picture), case.text, right=ok)
    if path is not None:
        sheet.write(path, columns=8)
    scores["(untouched things untouched)"] = Score.of(kept)
    return scores


def _read(pictures: Sequence[Image.Image], description: str) -> list[Scene]:
    return [detect(picture) for picture in track(pictures, description=description)]


def _understand(subject: Subject, count: int, canvas: Canvas) -> dict[str, Score]:
    scores = {}
    for kind in SCORED_QUESTIONS:
        cases = question_cases(Random(f"understand {kind}"), kind, count, canvas)
        pairs = [(render(scene), query.text) for scene, query in cases]
        answers = subject.answer(list(track(pairs, description=f"understand {kind}")))
        wanted = [query.answer for _, query in cases]
        right = [given.strip().lower() == answer for given, answer in zip(answers, wanted, strict=True)]
        scores[kind] = Score.of(right)
    return scores


def question_cases(rng: Random, kind: str, count: int, canvas: Canvas) -> list[tuple[Scene, Query]]:
    """Make pictures with one question of a kind each."""
    cases: list[tuple[Scene, Query]] = []
    while len(cases) < count:
        ground = rng.choice(BACKGROUNDS)
        scene = canvas.scene(rng, ground, canvas.kinds(rng, ground, rng.randint(1, 4)))
        query = question(rng, scene, kind)
        if query is not None:
            cases.append((scene, query))
    return cases
