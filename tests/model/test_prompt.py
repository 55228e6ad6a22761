from PIL import Image

from model.prompt import Prompt, Turn

PICTURE, OTHER = Image.new("RGB", (1, 1)), Image.new("RGB", (2, 2))


def test_images_make_a_drawing_an_edit() -> None:
    assert Prompt.draw("cat").task == "generate"
    assert Prompt.draw("cat", (PICTURE,)).task == "edit"


def test_images_come_before_the_words() -> None:
    assert Prompt.draw("cat", (PICTURE, OTHER)).turns == (Turn("user", (PICTURE, OTHER, "cat")),)
    assert Prompt.ask("what?", (PICTURE,)).turns == (Turn("user", (PICTURE, "what?")),)


def test_images_of_all_turns_keep_their_order() -> None:
    turns = (Turn("user", ("a", PICTURE)), Turn("assistant", ("b",)), Turn("user", (OTHER, "c")))
    assert Prompt(task="understand", turns=turns).images == (PICTURE, OTHER)


def test_token_prompts_carry_their_images() -> None:
    prompt = Prompt.of_tokens((1, 2), (PICTURE,), task="edit")
    assert prompt.tokens == (1, 2)
    assert prompt.images == (PICTURE,)
