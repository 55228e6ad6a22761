from PIL import Image

from model.drawing import Drawn
from model.family import Size
from model.guidance import Guidance
from model.question import Answered
from model.request import Progress, Usage
from service.engine.job import Finished, Preview, Timings
from service.stages import Stages

SECOND = 10**9
PICTURE = Image.new("RGB", (16, 16))


def drawn(**timings: float) -> Finished:
    usage = Usage(prompt_tokens=9, prefilled_tokens=5, steps=4, network_calls=8)
    result = Drawn(
        images=(PICTURE,), seeds=(1,), size=Size(16, 16), guidance=Guidance(), times=(0.0, 1.0), usage=usage
    )
    return Finished(result=result, timings=Timings(**{"queue_seconds": 0.0} | timings))


def progress(stage: str, done: int = 0) -> Progress:
    return Progress(stage=stage, done=done, total=4)


def test_the_stages_of_a_finished_job_are_as_long_as_the_engine_says_and_lie_end_to_end() -> None:
    stages = Stages(0)
    # Word of all this comes late, and unevenly.
    for time, stage in enumerate(("queue", "prefill", "denoise", "decode"), 1):
        stages.take(progress(stage), time * SECOND)
    stages.take(
        drawn(queue_seconds=1, prefill_seconds=1.5, denoise_seconds=2, decode_seconds=0.5), 5 * SECOND
    )
    admission, prefill, steps, decode = stages.end(99 * SECOND, None)
    assert [each.name for each in (admission, prefill, steps, decode)] == [
        "admission",
        "prefill",
        "steps",
        "decode",
    ]
    assert (admission.begun, admission.ended) == (0, SECOND)
    assert (prefill.begun, prefill.ended) == (SECOND, 2.5 * SECOND)
    assert (steps.begun, steps.ended) == (2.5 * SECOND, 4.5 * SECOND)
    assert (decode.begun, decode.ended) == (4.5 * SECOND, 5 * SECOND)
    assert steps.attributes["hbridge.steps"] == 4
    assert prefill.attributes["hbridge.prefilled_tokens"] == 5
    assert not any(each.error for each in (admission, prefill, steps, decode))


def test_steps_and_previews_are_moments_within_their_stage() -> None:
    stages = Stages(0)
    stages.take(progress("denoise"), 1)
    stages.take(progress("denoise", 2), 2)
    stages.take(Preview(index=0, images=(PICTURE,)), 3)
    stages.take(drawn(prefill_seconds=1e-9, denoise_seconds=4e-9, decode_seconds=2e-9), 9)
    steps = next(each for each in stages.end(9, None) if each.name == "steps")
    assert [(each.name, dict(each.attributes)) for each in steps.moments] == [
        ("step", {"done": 2, "total": 4}),
        ("preview", {"index": 0}),
    ]
    assert all(steps.begun <= each.time <= steps.ended for each in steps.moments)


def test_an_answers_tokens_are_its_decode_and_a_stage_that_was_left_out_is_not_there() -> None:
    stages = Stages(0)
    stages.take(progress("prefill"), 1)
    stages.take(progress("answer"), 2)
    usage = Usage(completion_tokens=3)
    answered = Answered(text="a", finish_reason="stop", seed=0, usage=usage)
    timings = Timings(queue_seconds=0.0, prefill_seconds=1e-9, decode_seconds=1e-9)
    stages.take(Finished(result=answered, timings=timings), 3)
    assert [each.name for each in stages.end(3, None)] == ["admission", "prefill", "decode"]


def test_what_ends_a_job_ends_the_stage_that_it_was_in() -> None:
    stages = Stages(0)
    for time, stage in enumerate(("queue", "prefill", "denoise"), 1):
        stages.take(progress(stage), time)
    told = stages.end(9, "cancelled")
    assert [(each.name, each.begun, each.ended, each.error) for each in told] == [
        ("admission", 0, 2, None),
        ("prefill", 2, 3, None),
        ("steps", 3, 9, "cancelled"),
    ]


def test_a_job_that_was_refused_was_in_admission_alone() -> None:
    (admission,) = Stages(4).end(5, "queue_full")
    assert (admission.name, admission.begun, admission.ended, admission.error) == (
        "admission",
        4,
        5,
        "queue_full",
    )


def test_a_job_that_begins_again_keeps_what_it_was_in_before() -> None:
    stages = Stages(0)
    for time, stage in enumerate(("queue", "prefill", "denoise", "queue", "prefill", "denoise"), 1):
        stages.take(progress(stage), time)
    stages.take(drawn(prefill_seconds=2e-9, denoise_seconds=1e-9), 9)
    told = stages.end(9, None)
    assert [(each.name, each.begun, each.ended, each.error) for each in told] == [
        ("admission", 0, 2, None),
        ("prefill", 2, 3, None),
        ("steps", 3, 4, "engine_restarting"),
        ("admission", 4, 6, None),
        ("prefill", 6, 8, None),
        ("steps", 8, 9, None),
    ]
