from pathlib import Path

import pytest

from model.prompt import Turn
from model.qwen_vl.tokenizer import Tokenizer, mark
from training.english import COLOUR_WORDS, NUMBER_WORDS, PLURALS, RELATION_WORDS, SHAPE_WORDS, SIZE_WORDS
from training.recipe import Recipe
from training.vocabulary import SPECIAL, known_words, train_tokenizer
from training.world import BACKGROUNDS, COLOURS

TABLES = (SHAPE_WORDS, COLOUR_WORDS, SIZE_WORDS, RELATION_WORDS)
PHRASES = (phrase for table in TABLES for phrases in table.values() for phrase in phrases)
WORDS = sorted(
    {*" ".join(PHRASES).split(), *COLOURS, *BACKGROUNDS, *NUMBER_WORDS, *PLURALS.values(), "background"}
)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_the_world_is_two_tokens_at_most(tokenizer: Tokenizer, word: str) -> None:
    assert len(tokenizer.encode(f" {word}", [])) <= 2


@pytest.mark.parametrize("text", ["a red star.", "naïve ☃ 日本", "\t x \n\n y", "Ünïcödé 1234", "🎈"])
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, [])) == text


@pytest.mark.parametrize("special", SPECIAL)
def test_no_words_of_a_user_are_a_special_token(tokenizer: Tokenizer, special: str) -> None:
    tokens = tokenizer.encode(f"<|im_start|>user\n{mark(0)}", [f"draw {special} a star"])
    assert [token for token in tokens if token in tokenizer.special.values()] == [
        tokenizer.special["<|im_start|>"]
    ]


def test_special_tokens_have_the_ids_that_the_recipe_gives_them(tokenizer: Tokenizer) -> None:
    model = Recipe("tiny", Path()).read("vlm")["model"]
    named = {"<|im_end|>": "eos", "<|image_pad|>": "image", "<|video_pad|>": "video"}
    named |= {f"<|vision_{end}|>": f"vision_{end}" for end in ("start", "end")}
    assert {name: model[f"{field}_token_id"] for name, field in named.items()}.items() <= (
        tokenizer.special.items()
    )
    assert max(tokenizer.special.values()) == model["vocab_size"] - 1


def test_a_chat_opens_the_assistants_turn_without_a_system_turn(tokenizer: Tokenizer) -> None:
    rendered, words = tokenizer.render_chat([Turn("user", ("how many?",))])
    assert rendered == f"<|im_start|>user\n{mark(0)}<|im_end|>\n<|im_start|>assistant\n"
    assert words == ["how many?"]


def test_the_same_seed_trains_the_same_tokenizer(tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_tokenizer(tmp_path / name, vocab_size=320, sentences=100, seed=3)
    one, two = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("one", "two"))
    assert one == two


def test_known_words_are_those_of_the_world_and_of_no_chat_role() -> None:
    known = known_words(sentences=4000, seed=0)
    assert set(" ".join(WORDS).replace("-", " ").split()) - set(known) <= set(NUMBER_WORDS)
    assert not {"user", "assistant"} & set(known)
