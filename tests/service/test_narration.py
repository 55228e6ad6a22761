from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from model.drawing import Drawing
from model.pipeline import answer as answer_to
from model.pipeline import draw
from model.prompt import Turn
from model.question import Question
from model.request import Progress
from service.engine.job import Event, Finished, Job, LoadedModel, Preview, Timings
from service.narration import Narration
from service.schemas.answers import ImagesAnswer, TextAnswer
from service.schemas.body import Body
from service.schemas.drawing import GenerateRequest
from service.schemas.events import PartialImageEvent, TextDeltaEvent
from service.schemas.question import UnderstandRequest
from service.streaming import Message

TIMINGS = Timings(queue_seconds=0.0)


@pytest.fixture
def service(web: Any) -> Any:
    return web.app.state.service


def narrate(service: Any, job: Job, asked: Body, events: Sequence[Event]) -> list[Message]:
    narration = Narration(service, job, asked)
    return [message for event in events for message in narration(event)]


def test_a_picture_is_told_from_its_admission_to_the_whole_answer(service: Any, loaded: LoadedModel) -> None:
    job = Job(id="a", work=Drawing(prompt="a", n=2, seed=1, num_inference_steps=1))
    looks = [Preview(index=index, images=(Image.new("RGB", (8, 8)),) * 2) for index in (1, 5)]
    finished = Finished(result=draw(loaded.family, job.work), timings=TIMINGS)
    events = [Progress(stage="queue", done=0, total=1, eta_seconds=2.0), *looks, finished]
    told = narrate(service, job, GenerateRequest(prompt="a", n=2, output_format="webp"), events)
    assert [message.name for message in told] == ["progress", *["partial_image"] * 4, "completed"]
    partial = [message.data for message in told if isinstance(message.data, PartialImageEvent)]
    assert [(each.partial_image_index, each.image_index) for each in partial] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert {each.mime_type for each in partial} == {"image/webp"}
    assert isinstance(told[-1].data, ImagesAnswer)


def test_the_words_that_are_told_are_the_answer(service: Any, loaded: LoadedModel) -> None:
    question = Question(turns=(Turn("user", ("a",)),), max_tokens=8)
    said: list[Event] = []
    answered = answer_to(loaded.family, question, said.append)
    asked = UnderstandRequest(prompt="a")
    events = [*said, Finished(result=answered, timings=TIMINGS)]
    told = narrate(service, Job(id="a", work=question), asked, events)
    deltas = [message.data.text for message in told if isinstance(message.data, TextDeltaEvent)]
    assert isinstance(told[-1].data, TextAnswer)
    assert "".join(deltas) == told[-1].data.answer == answered.text
    assert all(deltas)
