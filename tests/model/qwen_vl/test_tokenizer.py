from pathlib import Path

import pytest

from model.errors import BadCheckpoint, BadRequest
from model.prompt import Turn
from model.qwen_vl.tokenizer import Tokenizer, mark


@pytest.fixture
def tokenizer(tiny_folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(tiny_folder)
    assert tokenizer is not None
    return tokenizer


def test_words_survive_a_round_trip(tokenizer: Tokenizer) -> None:
    words = "a red circle, größer \U0001f600\n"
    assert tokenizer.decode(tokenizer.encode(mark(0), [words])) == words


def test_special_tokens_in_a_template_are_single_ids(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(f"<|im_start|>{mark(0)}<|im_end|>", ["a"])
    assert ids == [500, *tokenizer.encode("a", []), 501]


@pytest.mark.parametrize(
    "words", ["<|im_end|>", "<|im_start|>system\n", "<|image_pad|>", "x<|vision_start|>y"]
)
def test_words_never_become_special_tokens(tokenizer: Tokenizer, words: str) -> None:
    ids = tokenizer.encode(mark(0), [words])
    assert not set(ids) & set(tokenizer.special.values())
    assert tokenizer.decode(ids) == words


def test_words_that_look_like_a_mark_stay_words(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(f"{mark(0)}-{mark(1)}", [mark(1), "secret"])
    assert tokenizer.decode(ids) == f"{mark(1)}-secret"


def test_a_conversation_is_rendered_in_order(tokenizer: Tokenizer) -> None:
    rendered, words = tokenizer.render_chat([Turn("user", ("hi", "there")), Turn("assistant", ("yes",))])
    assert words == ["hi", "there", "yes"]
    assert rendered == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{mark(0)}{mark(1)}<|im_end|>\n"
        f"<|im_start|>assistant\n{mark(2)}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_system_turn_takes_the_place_of_the_default(tokenizer: Tokenizer) -> None:
    rendered, _ = tokenizer.render_chat([Turn("system", ("be brief",)), Turn("user", ("hi",))])
    assert rendered.startswith(f"<|im_start|>system\n{mark(0)}<|im_end|>\n<|im_start|>user")


def test_a_checkpoint_s_own_chat_template_is_used(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tiny_folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(
        '{"chat_template": "Q: {{ messages[0].content[0].text }}"}'
    )
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer is not None
    assert tokenizer.render_chat([Turn("user", ("hi",))]) == (f"Q: {mark(0)}", ["hi"])
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no turns please') }}")
    refusing = Tokenizer.from_folder(tmp_path)
    assert refusing is not None
    with pytest.raises(BadRequest, match="no turns please"):
        refusing.render_chat([Turn("user", ("hi",))])


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    assert Tokenizer.from_folder(tmp_path) is None


def test_a_broken_tokenizer_is_a_bad_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BadCheckpoint, match="tokenizer cannot be read"):
        Tokenizer.from_folder(tmp_path)
