from dataclasses import replace
from pathlib import Path

import pytest

from model.drawing import Drawing, plan_drawing
from model.family import Capabilities, Size
from model.question import Question, read_question
from service.engine.calibration import calibration_rounds, cost_file, sizes, warm_up_jobs
from service.engine.job import Job, LoadedModel


def test_warm_up_has_a_job_for_every_task(loaded: LoadedModel) -> None:
    can = loaded.card.capabilities
    assert [job.task for job in warm_up_jobs(can)] == list(can.tasks)


def check(job: Job, loaded: LoadedModel) -> None:
    """Raise when a job is not what the model can do."""
    if isinstance(job.work, Drawing):
        plan_drawing(loaded.family, job.work)
    else:
        assert isinstance(job.work, Question)
        read_question(job.work, loaded.card.capabilities)


def test_all_that_is_measured_can_be_done_and_differs(loaded: LoadedModel) -> None:
    rounds = list(calibration_rounds(loaded.card.capabilities))
    jobs = [job for together in rounds for job in together]
    for job in jobs:
        check(job, loaded)
    assert len({job.id for job in jobs}) == len(jobs)
    assert {job.task for job in jobs} == set(loaded.card.capabilities.tasks)
    drawings = [job.work for job in jobs if isinstance(job.work, Drawing)]
    assert {drawing.n for drawing in drawings} == {1, 4}
    assert {drawing.size for drawing in drawings} == set(sizes(loaded.card.capabilities))


@pytest.mark.parametrize("tasks", [("generate",), ("understand",), ("edit", "understand")])
def test_only_what_a_model_can_do_is_measured(tasks: tuple[str, ...], loaded: LoadedModel) -> None:
    can = replace(loaded.card.capabilities, tasks=tasks)
    assert {job.task for together in calibration_rounds(can) for job in together} == set(tasks)


def limits(can: Capabilities, **fields: int) -> Capabilities:
    return replace(can, size_step=16, default_size=Size(32, 32), **fields)


def test_sizes_are_the_ends_of_what_may_be_asked_and_the_default(loaded: LoadedModel) -> None:
    can = loaded.card.capabilities
    wide = limits(can, min_side=16, max_side=128, max_pixels=64 * 64)
    assert sizes(wide) == [Size(16, 16), Size(32, 32), Size(64, 64)]
    assert sizes(limits(can, min_side=32, max_side=32, max_pixels=32 * 32)) == [Size(32, 32)]


def test_another_model_device_or_number_of_threads_has_another_file(loaded: LoadedModel) -> None:
    card = loaded.card
    files = [
        cost_file(Path("costs"), each, threads)
        for each, threads in (
            (card, None),
            (replace(card, weights_hash="other"), None),
            (replace(card, dtype="bfloat16"), None),
            (replace(card, quantization="int8"), None),
            (replace(card, is_offloaded=True), None),
            (card, 1),
        )
    ]
    assert len(set(files)) == 6
    assert cost_file(Path("costs"), card, None) == files[0]
