import pytest
from PIL import Image

from model.errors import BadRequest
from service.schemas.body import validate
from service.schemas.question import UnderstandRequest, check_question, to_question


def test_a_conversation_keeps_its_order() -> None:
    url = {"type": "image_url", "image_url": {"url": "x"}}
    text = {"type": "text", "text": "a"}
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [url, text, url]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": [text, url]},
    ]
    asked = validate(UnderstandRequest, {"messages": turns, "stop": "end", "temperature": 0.5})
    check_question(asked)
    images = tuple(Image.new("RGB", (side, 8)) for side in (1, 2, 3))
    question = to_question(asked, images, max_tokens=7)
    assert [turn.role for turn in question.turns] == ["system", "user", "assistant", "user"]
    assert question.turns[1].parts == (images[0], "a", images[1])
    assert question.turns[3].parts == ("a", images[2])
    assert (question.stop, question.temperature, question.max_tokens) == (("end",), 0.5, 7)


def test_images_come_before_the_prompt() -> None:
    image = Image.new("RGB", (8, 8))
    question = to_question(UnderstandRequest(prompt="a", max_tokens=3), (image,), max_tokens=7)
    assert question.turns[0].parts == (image, "a")
    assert question.max_tokens == 3


def test_a_question_is_asked_once() -> None:
    with pytest.raises(BadRequest, match="one of them"):
        check_question(UnderstandRequest())
