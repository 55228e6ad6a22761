from PIL import Image

from model.drawing import Drawing
from model.prompt import Turn
from model.question import Question
from service.content import content_of

PICTURE = Image.new("RGB", (48, 32), "red")


def test_words_are_told_and_of_images_the_size() -> None:
    drawing = Drawing(prompt="a poodle", negative_prompt="a cat", images=(PICTURE,))
    assert content_of(drawing) == {
        "prompt": "a poodle",
        "negative_prompt": "a cat",
        "images": ["image 48x32"],
    }
    turns = (Turn("system", ("be brief",)), Turn("user", (PICTURE, "what?")))
    assert content_of(Question(turns=turns)) == {
        "messages": [
            {"role": "system", "parts": ["be brief"]},
            {"role": "user", "parts": ["image 48x32", "what?"]},
        ]
    }
