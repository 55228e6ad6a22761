import asyncio
from typing import Any

import pytest

from model.drawing import Drawing
from model.errors import BadRequest
from model.question import Question
from service.openai_chat import check_options, named, to_chat, to_picture, to_understand
from service.schemas.body import validate
from service.schemas.drawing import EditRequest, GenerateRequest
from service.schemas.openai_chat import ChatRequest
from service.tenant import LOCAL


def asked(*parts: Any, **given: Any) -> ChatRequest:
    return validate(ChatRequest, {"messages": [{"role": "user", "content": list(parts)}]} | given)


A, B = {"type": "text", "text": "a"}, {"type": "text", "text": "b"}


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_words_and_a_picture_have_one_seed_and_jobs_of_their_own(web: Any) -> None:
    service = web.app.state.service
    chat = asyncio.run(
        to_chat(service, asked(A, modalities=["image", "text"], deadline_ms=60_000), "req-1", LOCAL)
    )
    words, drawing = chat.jobs
    assert isinstance(words.work, Question)
    assert isinstance(drawing.work, Drawing)
    assert words.work.seed == drawing.work.seed is not None
    assert [job.id for job in chat.jobs] == ["req-1", "req-1-picture"]
    assert [job.deadline_seconds for job in chat.jobs] == [60, 60]


def test_a_picture_is_made_from_the_last_messages_words_and_images() -> None:
    made = to_picture(asked(A, picture("x"), B, picture("y"), guidance_scale=2.0, size="auto"), seed=3)
    assert isinstance(made, EditRequest)
    assert (made.prompt, made.images, made.guidance_scale, made.size) == ("a\nb", ["x", "y"], 2.0, None)
    plain = to_picture(asked(A), seed=3)
    assert isinstance(plain, GenerateRequest)
    assert plain == GenerateRequest(prompt="a", seed=3)


def test_a_developer_is_a_system() -> None:
    messages = [{"role": "developer", "content": "s"}, {"role": "user", "content": "a"}]
    question = to_understand(validate(ChatRequest, {"messages": messages, "stop": "x"}), seed=1)
    assert question.messages
    assert [message.role for message in question.messages] == ["system", "user"]
    assert question.stop == ["x"]


def test_options_of_what_is_not_asked_for_are_refused() -> None:
    for given, param in (({"solver": "euler"}, "solver"), ({"modalities": ["image"], "stop": ["x"]}, "stop")):
        with pytest.raises(BadRequest) as refusal:
            check_options(asked(A, **given))
        assert refusal.value.param == param


@pytest.mark.parametrize(
    ("inside", "outside"), [("prompt", "messages"), ("images.1", "messages"), ("size", "size"), (None, None)]
)
def test_what_is_wrong_has_the_chats_name(inside: str | None, outside: str | None) -> None:
    with pytest.raises(BadRequest) as refusal, named(asked(A)):
        raise BadRequest("wrong", param=inside)
    assert refusal.value.param == outside
