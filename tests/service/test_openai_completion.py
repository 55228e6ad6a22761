from typing import Any

import pytest

from model.drawing import Drawing
from model.pipeline import answer as answer_to
from model.pipeline import draw
from model.prompt import Turn
from model.question import Question
from model.request import Progress
from service.engine.job import Event, Finished, Job, LoadedModel, Timings
from service.openai_chat import Chat
from service.openai_completion import ChatNarration, completion
from service.schemas.body import validate
from service.schemas.drawing import GenerateRequest
from service.schemas.openai_chat import ChatChunk, ChatRequest
from service.schemas.question import UnderstandRequest

TIMINGS = Timings(queue_seconds=0.0)
QUESTION = Question(turns=(Turn("user", ("a",)),), max_tokens=8, seed=1)
DRAWING = Drawing(prompt="a", seed=1, num_inference_steps=1)


@pytest.fixture
def chat() -> Chat:
    messages = [{"role": "user", "content": "a"}]
    given = {"stream": True, "stream_options": {"include_usage": True}, "metadata": {"a": "b"}}
    asked = validate(ChatRequest, {"messages": messages, "modalities": ["text", "image"]} | given)
    words = (Job(id="a", work=QUESTION), UnderstandRequest(prompt="a"))
    return Chat(id="a", asked=asked, parts=(words, (Job(id="b", work=DRAWING), GenerateRequest(prompt="a"))))


@pytest.fixture
def events(loaded: LoadedModel) -> list[list[Event]]:
    """What both jobs tell."""
    said: list[Event] = [Progress(stage="queue", done=0, total=1)]
    answered = answer_to(loaded.family, QUESTION, said.append)
    drawn = draw(loaded.family, DRAWING)
    return [
        [*said, Finished(result=answered, timings=TIMINGS)],
        [Progress(stage="queue", done=0, total=1), Finished(result=drawn, timings=TIMINGS)],
    ]


def test_the_chunks_together_are_the_whole(web: Any, chat: Chat, events: list[list[Event]]) -> None:
    service = web.app.state.service
    narration = ChatNarration(service, chat)
    told = [message.data for job in events for event in job for message in narration(event)]
    assert told[-1] == "[DONE]"
    chunks = [each for each in told if isinstance(each, ChatChunk)]
    finished = [each for job in events for each in job if isinstance(each, Finished)]
    whole = completion(service, chat, finished)
    deltas = [each.choices[0].delta for each in chunks[:-1]]
    message = whole.choices[0].message
    assert [each.role for each in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert "".join(each.content or "" for each in deltas) == message.content
    assert [each.images for each in deltas if each.images] == [message.images]
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    for name in ("seed", "metadata", "warnings", "receipt"):
        assert getattr(chunks[-2], name) == getattr(whole, name)
    assert whole.metadata == {"a": "b"}
