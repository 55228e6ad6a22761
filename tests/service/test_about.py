from pathlib import Path

import pytest

from model.errors import BadCheckpoint
from model.registry import SHIPPED
from service.about import About, read_about


def test_a_checkpoint_may_say_nothing(tmp_path: Path) -> None:
    about = read_about(tmp_path)
    assert about == About()
    assert about.unknown("anything goes") == []


def test_what_it_says_is_read(tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text('{"examples": {"generate": ["a circle"]}, "words": ["a", "circle"]}')
    about = read_about(tmp_path)
    assert about.examples == {"generate": ["a circle"]}
    assert about.unknown("A circle, a Dragon & 2 dragons", "castle") == ["dragon", "dragons", "castle"]


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"examples": {"paint": ["a"]}}', '{"examples": []}', '{"poem": 1}']
)
def test_what_is_not_understood_is_a_bad_checkpoint(tmp_path: Path, content: str) -> None:
    (tmp_path / "about.json").write_text(content)
    with pytest.raises(BadCheckpoint, match=r"about\.json"):
        read_about(tmp_path)


def test_the_shipped_checkpoint_knows_the_words_of_its_examples() -> None:
    about = read_about(SHIPPED / "hbridge-tiny")
    assert about.unknown(*(words for examples in about.examples.values() for words in examples)) == []
    assert about.unknown("a dragon on a blue background") == ["dragon"]
