import pytest

from benchmarks.workload import Workload, perform
from model.drawing import Drawing, Drawn, plan_drawing
from model.question import Answered, Question
from service.engine.job import LoadedModel


@pytest.fixture
def workload(tiny: LoadedModel) -> Workload:
    return Workload(tiny.card.capabilities)


def test_every_request_fits_the_model(workload: Workload, tiny: LoadedModel) -> None:
    for work in workload.mixed():
        if isinstance(work, Drawing):
            plan_drawing(tiny.family, work)
    assert isinstance(perform(tiny.family, workload.question()), Answered)
    assert isinstance(perform(tiny.family, workload.edit(num_inference_steps=1)), Drawn)


def test_mixed_requests_differ_in_everything(workload: Workload) -> None:
    works = workload.mixed()
    drawings = [work for work in works if isinstance(work, Drawing)]
    assert len(works) == 8
    assert any(isinstance(work, Question) for work in works)
    assert {bool(drawing.images) for drawing in drawings} == {True, False}
    for name in ("size", "num_inference_steps", "guidance_scale", "image_guidance_scale", "solver"):
        assert len({getattr(drawing, name) for drawing in drawings}) > 1, name


def test_no_words_come_twice(workload: Workload) -> None:
    prompts = [workload.generation().prompt for _ in range(50)] + [workload.edit().prompt for _ in range(50)]
    assert len(set(prompts)) == 100


def test_a_seed_draws_the_same_again(tiny: LoadedModel) -> None:
    first, second = (Workload(tiny.card.capabilities, 3).generation() for _ in range(2))
    assert first == second
