import pytest

from service.errors import InvalidRequest
from service.schemas.body import validate
from service.schemas.drawing import DrawingOptions
from service.schemas.openai_chat import AssistantMessage, ChatChunk, ChatRequest, ChunkChoice, Delta
from service.schemas.question import AnswerOptions

HELLO = {"messages": [{"role": "user", "content": "a"}]}


def test_every_option_of_words_and_pictures_may_come_along() -> None:
    assert (
        AnswerOptions.model_fields.keys() | DrawingOptions.model_fields.keys()
        <= ChatRequest.model_fields.keys()
    )


def test_a_message_may_come_back_as_it_was_answered() -> None:
    message = AssistantMessage(content="a").model_dump(mode="json")
    assert message == {"role": "assistant", "content": "a", "refusal": None}
    asked = validate(ChatRequest, {"messages": [message | {"annotations": [], "tool_calls": None}]})
    assert asked.messages[0].role == "assistant"


def test_a_chunk_holds_only_what_it_tells() -> None:
    head = {"id": "a", "created": 1, "model": "m", "system_fingerprint": "f"}
    chunk = ChatChunk(**head, choices=[ChunkChoice(delta=Delta(content="x"))]).model_dump()
    assert chunk.keys() == {*head, "object", "choices"}
    assert chunk["choices"][0]["delta"] == {"content": "x"}


@pytest.mark.parametrize("penalty", [0.1, -1, float("nan")])
def test_only_a_penalty_of_nothing_is_taken(penalty: float) -> None:
    validate(ChatRequest, HELLO | {"frequency_penalty": 0})
    with pytest.raises(InvalidRequest, match="frequency_penalty"):
        validate(ChatRequest, HELLO | {"frequency_penalty": penalty})
