"""One packed call for many jobs gives each what a call of its own would; test_packing.py has whole jobs."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image

from model.drawing import Drawing
from model.family import Size
from model.question import Question
from service.engine.calls import Calls
from service.engine.cost import CostModel, Load, Stage
from service.engine.course import AnswerCourse, Course, DrawingCourse
from service.engine.job import Job, LoadedModel
from service.engine.scheduler import Flow, Standing
from service.engine.stopwatch import Stopwatch
from service.engine.ticket import Ticket

PICTURE = Image.effect_noise((32, 32), 60).convert("RGB")
WORKS: tuple[Drawing | Question, ...] = (
    Drawing(prompt="a", seed=1, num_inference_steps=2, size=Size(32, 32)),
    Drawing(prompt="b", seed=2, num_inference_steps=2, size=Size(48, 32), guidance_scale=1.0),
    Drawing(prompt="c", seed=3, num_inference_steps=2, images=(PICTURE,)),
)


class Slow(CostModel):
    """Expects every step to take a second for each row."""

    def seconds(self, stage: Stage, load: Load) -> float:
        return float(load.rows)


@pytest.fixture
def model(loaded: LoadedModel) -> LoadedModel:
    return loaded


def calls_of(model: LoadedModel, costs: CostModel | None = None) -> Calls:
    return Calls(model.family, costs or CostModel(), max_cache_bytes=2**20, max_call_seconds=1.0)


def tickets_of(model: LoadedModel, works: Sequence[Drawing | Question]) -> list[Ticket]:
    def course(work: Drawing | Question) -> Course:
        kind: Any = DrawingCourse if isinstance(work, Drawing) else AnswerCourse
        made: Course = kind(model.family, work)
        return made

    return [
        Ticket(
            job=Job(id=str(i), work=work),
            emit=lambda event: None,
            course=course(work),
            standing=Standing(job_id=str(i), flow=Flow("", "interactive", 1.0), arrived=0.0),
            needed_seconds=1.0,
            held_bytes=0,
            watch=Stopwatch(),
        )
        for i, work in enumerate(works)
    ]


def begun(calls: Calls, model: LoadedModel, works: Sequence[Drawing | Question]) -> list[Ticket]:
    tickets = tickets_of(model, works)
    for ticket, inputs in zip(tickets, calls.make("prefill", tickets), strict=True):
        ticket.course.take(inputs)
    return tickets


@torch.inference_mode()
def test_a_packed_step_gives_every_job_what_a_step_of_its_own_does(model: LoadedModel) -> None:
    calls = calls_of(model)
    tickets = begun(calls, model, WORKS)
    packed = calls.make("denoise", tickets)
    alone = [calls.make("denoise", [ticket])[0] for ticket in tickets]
    for one, other in zip(packed, alone, strict=True):
        assert len(one) == len(other)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_job_that_leaves_between_two_calls_of_a_step_gets_nothing(model: LoadedModel) -> None:
    calls = calls_of(model, Slow())
    tickets = begun(calls, model, WORKS[:2])
    whole = calls.make("denoise", tickets)
    tickets[1].is_cancelled = True
    left, none = calls.make("denoise", tickets)
    assert none is None
    torch.testing.assert_close(left, whole[0])


@torch.inference_mode()
def test_prompts_are_counted_once_and_a_kept_one_as_a_hit(model: LoadedModel) -> None:
    calls = calls_of(model)
    tickets = begun(calls, model, WORKS[:1])
    num_prompts = len(tickets[0].course.prompts)
    assert calls.take_prompts() == (num_prompts, 0)
    assert calls.take_prompts() == (0, 0)
    calls.release("0")
    begun(calls, model, WORKS[:1])
    assert calls.take_prompts() == (num_prompts, num_prompts)
    assert calls.num_bytes > 0
