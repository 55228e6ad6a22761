from typing import Any

import pytest
import torch
from PIL import Image

from model.drawing import Drawing
from model.family import Family, Size
from model.pipeline import answer, draw
from model.prompt import Turn
from model.question import Question
from service.engine.cost import Load
from service.engine.course import AnswerCourse, Course, DrawingCourse, Inputs, check_finite, num_tokens
from service.engine.errors import JobFailed
from service.engine.prefix_cache import Ask, PrefixCache

PICTURE = Image.effect_noise((32, 32), 60).convert("RGB")
QUESTION = Question(turns=(Turn("user", ("what?",)),), max_tokens=3)


@pytest.fixture
def family(loaded: Any) -> Family:
    given: Family = loaded.family
    return given


def drawing(**fields: Any) -> Drawing:
    return Drawing(**({"prompt": "a", "seed": 1, "num_inference_steps": 2, "size": Size(32, 32)} | fields))


def begin(family: Family, course: Course) -> None:
    cache = PrefixCache(family, max_bytes=2**20)
    prefilled = cache.prefill([Ask(job_id="a", prompt=prompt) for prompt in course.prompts])
    course.take(Inputs(prefilled=prefilled, references=family.encode(course.images)))


def walk(family: Family, course: Course) -> list[str]:
    """Take a course to its end, alone; return its stages."""
    stages = []
    while course.stage:
        stages.append(course.stage)
        assert course.progress.stage == course.stage
        if course.stage == "prefill":
            begin(family, course)
        elif isinstance(course, AnswerCourse):
            course.take(family.next_tokens([course.row()])[0])
        elif isinstance(course, DrawingCourse) and course.stage == "denoise":
            course.take(family.velocity(course.rows()))
        elif isinstance(course, DrawingCourse):
            course.take([object() for _ in course.latents])
    return stages


def test_a_picture_goes_through_prefill_steps_and_decode(family: Family) -> None:
    course = DrawingCourse(family, drawing(n=2))
    assert walk(family, course) == ["prefill", "denoise", "denoise", "decode"]
    assert course.finish().usage.network_calls == draw(family, drawing(n=2)).usage.network_calls


def test_an_answer_goes_through_prefill_and_tokens(family: Family) -> None:
    course = AnswerCourse(family, QUESTION)
    stages = walk(family, course)
    assert set(stages[1:]) <= {"answer"}
    assert course.finish().text == answer(family, QUESTION).text


def test_what_is_expected_of_a_step_is_what_it_turns_out_to_be(family: Family) -> None:
    for work in (drawing(n=2), drawing(images=(PICTURE,)), drawing(guidance_scale=1.0)):
        course = DrawingCourse(family, work)
        (prefill, expected, decode) = course.remaining
        assert prefill == ("prefill", course.load, 1)
        begin(family, course)
        assert expected[0] == "denoise"
        assert expected[2] == 2
        assert expected[1].rows == course.load.rows
        assert expected[1].tokens >= course.load.tokens
        assert course.remaining == [("denoise", course.load, 2), decode]


def test_reading_counts_every_token_of_every_branch(family: Family) -> None:
    course = DrawingCourse(family, drawing())
    lengths = [num_tokens(prompt) for prompt in course.prompts]
    assert course.load == Load(rows=2, tokens=sum(lengths), pairs=sum(length**2 for length in lengths))


def test_an_answer_may_still_be_as_long_as_it_may_be(family: Family) -> None:
    course = AnswerCourse(family, QUESTION)
    assert [(stage, count) for stage, _, count in course.remaining] == [("prefill", 1), ("answer", 3)]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("bad", [[NAN], [INF], [-INF], [INF, -INF]])
def test_a_number_that_is_not_finite_ends_the_course(bad: list[float]) -> None:
    check_finite([torch.full((2,), 1e30), torch.full((3,), -1e30)])
    with pytest.raises(JobFailed):
        check_finite([torch.zeros(2), torch.tensor([0.0, *bad])])


def test_no_preview_comes_before_the_first_step_or_after_the_last(family: Family) -> None:
    course = DrawingCourse(family, drawing(num_inference_steps=4))
    assert course.preview(3) is None
    seen = []
    begin(family, course)
    while course.stage == "denoise":
        course.take(family.velocity(course.rows()))
        preview = course.preview(1)
        seen.append(preview is not None)
    assert seen == [False, True, False, False]


def test_previews_and_tokens_of_images_are_those_of_the_pipeline(family: Family) -> None:
    mask = Image.new("1", PICTURE.size)
    course = DrawingCourse(family, drawing(images=(PICTURE,), mask=mask))
    begin(family, course)
    course.take(family.velocity(course.rows()))
    preview = course.preview(1)
    assert preview
    assert preview.images[0].tobytes() == PICTURE.tobytes()
    assert course.easel
    assert course.easel.usage.prompt_image_tokens > 0
    drawn = draw(family, drawing(images=(PICTURE,)))
    assert course.easel.usage.prompt_image_tokens == drawn.usage.prompt_image_tokens
