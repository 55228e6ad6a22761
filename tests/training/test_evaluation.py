from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from model.drawing import Drawing
from model.family import Size
from service.app import create_app
from service.engine.client import Client
from service.engine.engine import EngineConfig
from service.engine.inline import InlineEngine
from service.engine.job import LoadedModel
from service.loading import load_model
from service.settings import Settings
from tests.service.local_client import local_client
from training.canvas import Canvas
from training.captions import CAPTIONS
from training.edits import EDITS
from training.evaluation import Checkpoint, Score, Server, evaluate, question_cases
from training.questions import SCORED_QUESTIONS
from training.world import render

COUNT = 4


class Painter:
    """A subject that knows what it will be asked, and paints just that."""

    def __init__(self, *, held_out: bool) -> None:
        canvas = Canvas(held_out=held_out)
        asked = [(make, Random(f"generate {kind}")) for kind, make in CAPTIONS.items()]
        scenes = [make(rng, canvas).scene for make, rng in asked for _ in range(COUNT)]
        edited = [(make, Random(f"edit {name}")) for name, make in EDITS.items()]
        scenes += [make(rng, canvas).after for make, rng in edited for _ in range(COUNT)]
        self.pictures = iter([render(scene) for scene in scenes])
        questions = {kind: Random(f"understand {kind}") for kind in SCORED_QUESTIONS}
        cases = [case for kind, rng in questions.items() for case in question_cases(rng, kind, COUNT, canvas)]
        self.answers = iter([query.answer for _, query in cases])

    def draw(self, drawings: Sequence[Drawing]) -> list[Image.Image]:
        return [next(self.pictures) for _ in drawings]

    def answer(self, pairs: Sequence[tuple[Image.Image, str]]) -> list[str]:
        return [f" {next(self.answers).upper()} " for _ in pairs]


class Idler:
    """A subject that leaves every picture gray and says nothing."""

    def draw(self, drawings: Sequence[Drawing]) -> list[Image.Image]:
        return [Image.new("RGB", (64, 64), "gray") for _ in drawings]

    def answer(self, pairs: Sequence[tuple[Image.Image, str]]) -> list[str]:
        return ["" for _ in pairs]


def overall(scores: dict[str, Any]) -> list[float]:
    return [scores[suite]["overall"] for suite in ("generate", "edit", "understand")]


@pytest.mark.parametrize("held_out", [False, True])
def test_who_paints_what_was_meant_has_every_point(held_out: bool) -> None:
    scores: dict[str, Any] = evaluate(Painter(held_out=held_out), per_kind=COUNT, held_out=held_out)
    assert overall(scores) == [1, 1, 1]
    assert scores["generate"]["kinds"]["(another prompt's wish)"]["share"] < 0.5
    assert scores["edit"]["kinds"]["(untouched things untouched)"]["share"] == 1


def test_who_paints_nothing_has_no_point() -> None:
    assert overall(evaluate(Idler(), per_kind=COUNT)) == [0, 0, 0]


def test_an_unchanged_picture_is_no_edit() -> None:
    class Keeper(Idler):
        def draw(self, drawings: Sequence[Drawing]) -> list[Image.Image]:
            return [drawing.images[0] for drawing in drawings]

    scores: dict[str, Any] = evaluate(Keeper(), per_kind=COUNT, suites=["edit"])
    assert scores["edit"]["overall"] == 0
    assert scores["edit"]["kinds"]["(untouched things untouched)"]["share"] == 1


def test_sheets_are_written_beside_each_other(tmp_path: Path) -> None:
    evaluate(Idler(), per_kind=1, sheet=tmp_path / "sheet.png", suites=["generate", "edit"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet-edit.png", "sheet-generate.png"]


@pytest.mark.parametrize("right", [0, 3, 10])
def test_an_interval_holds_the_share_and_shrinks_with_the_count(right: int) -> None:
    widths = []
    for times in (1, 10, 100):
        score = Score(right=right * times, count=10 * times)
        low, high = score.interval
        assert 0 <= low <= score.share + 1e-9
        assert score.share - 1e-9 <= high <= 1
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 2 * widths[-1]


@pytest.fixture(scope="module")
def loaded(model_folder: Path) -> LoadedModel:
    return load_model(Settings(model=str(model_folder)))


@pytest.fixture(scope="module")
def web(loaded: LoadedModel) -> Iterator[TestClient]:
    client = Client(InlineEngine(lambda: loaded, EngineConfig()), model_id=loaded.card.id)
    with local_client(create_app(Settings(provenance="off"), client)) as web:
        yield web


def test_a_server_answers_as_its_checkpoint(
    loaded: LoadedModel, web: TestClient, wait_until: Callable[..., None]
) -> None:
    wait_until(lambda: web.get("/readyz").status_code == 200)
    server, checkpoint = Server(web), Checkpoint(loaded.family)
    red = Image.new("RGB", (64, 64), "red")
    drawings = [
        Drawing(prompt="a star", seed=5, size=Size(48, 64)),
        Drawing(prompt="make it blue", images=(red,), seed=6),
    ]
    for mine, theirs in zip(server.draw(drawings), checkpoint.draw(drawings), strict=True):
        assert mine.size == theirs.size
        assert abs(np.asarray(mine).astype(int) - np.asarray(theirs)).max() <= 1
    pairs = [(red, "what is it?")]
    assert server.answer(pairs)[0].startswith(checkpoint.answer(pairs)[0])
