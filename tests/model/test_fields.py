from dataclasses import dataclass
from typing import Literal

import pytest

from model.fields import read_fields


@dataclass(frozen=True, kw_only=True)
class Poodle:
    name: str
    legs: int = 4
    weight: float = 1.0
    sizes: tuple[float, float] = (0.0, 1.0)
    ids: tuple[int, ...] = ()
    coat: Literal["curly", "corded"] = "curly"
    friend: str | None = None


def test_json_values_take_the_types_of_the_fields() -> None:
    values, problems = read_fields(
        Poodle, {"name": "a", "weight": 3, "sizes": [0, 2], "ids": [1, 2, 3]}, "dog"
    )
    assert not problems
    assert values == {"name": "a", "weight": 3.0, "sizes": (0.0, 2.0), "ids": (1, 2, 3)}
    assert isinstance(values["weight"], float)


def test_every_problem_is_told() -> None:
    _, problems = read_fields(Poodle, {"legs": "four", "coat": "flat", "tail": 1}, "dog")
    assert problems == [
        "dog.tail is unknown",
        "dog.name is missing",
        "dog.legs 'four' is not int",
        "dog.coat 'flat' is not typing.Literal['curly', 'corded']",
    ]


@pytest.mark.parametrize(
    "wrong", [{"legs": True}, {"legs": 1.5}, {"weight": None}, {"sizes": [1]}, {"ids": ["a"]}, {"friend": 3}]
)
def test_a_value_of_another_type_is_a_problem(wrong: dict[str, object]) -> None:
    assert len(read_fields(Poodle, {"name": "a"} | wrong, "dog")[1]) == 1


def test_null_fits_where_the_field_says_so() -> None:
    assert read_fields(Poodle, {"name": "a", "friend": None}, "dog") == ({"name": "a", "friend": None}, [])
