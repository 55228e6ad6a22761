import pytest

from model.names import Names, PartNames

NAMES = Names(
    parts={
        "left": PartNames(renamed=((r"^old\.", "new."), (r"\bblock(\d)\b", r"layer.\1")), spare=r"^inv_freq$")
    }
)


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("left.old.weight", "left.new.weight"),
        ("left.old.block3.weight", "left.new.layer.3.weight"),
        ("left.new.weight", "left.new.weight"),
        ("left.bold.weight", "left.bold.weight"),
        ("right.old.weight", "right.old.weight"),
        ("left", "left"),
        ("", ""),
    ],
)
def test_a_name_changes_by_the_table_of_its_part(published: str, ours: str) -> None:
    assert NAMES.ours(published) == ours
    assert NAMES.ours(ours) == ours


def test_only_what_the_part_says_is_spare() -> None:
    assert NAMES.is_spare("left.inv_freq")
    assert not NAMES.is_spare("left.deep.inv_freq")
    assert not NAMES.is_spare("right.inv_freq")
