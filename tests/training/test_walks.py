from random import Random

import pytest

from model.checkpoint import load
from model.drawing import Drawing
from model.family import Family
from training import walks
from training.canvas import Canvas
from training.captions import CAPTIONS
from training.detector import detect
from training.painting import paint
from training.walks import right_from


@pytest.fixture(scope="module")
def family() -> Family:
    return load("hbridge-tiny")


def test_what_begins_at_the_end_is_right(family: Family) -> None:
    report = right_from(family, kinds=("binding",), times=(0.97,), count=8)
    (score,) = report["binding"].values()
    assert isinstance(score, dict)
    assert score["right"] >= 7


def test_a_walk_from_noise_is_a_picture_as_always(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(walks, "detect", lambda picture: seen.append(picture) or detect(picture))
    right_from(family, kinds=("counting",), times=(0.0,), count=2)
    rng = Random("walks counting")
    cases = [CAPTIONS["counting"](rng, Canvas(held_out=True)) for _ in range(2)]
    painted = paint(family, [Drawing(prompt=case.text, seed=i) for i, case in enumerate(cases)])
    assert [picture.tobytes() for picture in seen] == [picture.tobytes() for picture in painted]
