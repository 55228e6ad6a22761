import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.deltas import UNFINISHED, Deltas

WORDS = st.text(alphabet="ab é\n", min_size=1, max_size=3)


@given(text=st.text(alphabet="ab é\n", max_size=40), stop=st.lists(WORDS, max_size=3), data=st.data())
def test_all_pieces_together_are_the_answer(text: str, stop: list[str], data: st.DataObject) -> None:
    ends = [text.index(word) for word in stop if word in text]
    whole = text[: min(ends, default=len(text))]
    deltas = Deltas(stop)
    seen = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    told = ""
    for size in seen:
        if any(word in text[:size] for word in stop):
            break
        told += deltas.grow(text[:size])
        assert whole.strip().startswith(told)
    assert told + deltas.end(whole.strip()) == whole.strip()


@pytest.mark.parametrize(
    ("text", "certain"), [("a b ", "a b"), (" a", "a"), (f"a{UNFINISHED * 2}", "a"), ("a</s", "a")]
)
def test_what_may_still_change_is_held_back(text: str, certain: str) -> None:
    assert Deltas(["</stop>"]).grow(text) == certain


def test_an_answer_that_begins_again_is_told_from_where_it_was() -> None:
    deltas = Deltas()
    assert [deltas.grow(text) for text in ("one", "", "on", "one two")] == ["one", "", "", " two"]
