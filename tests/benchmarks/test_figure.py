import math
from typing import Any

import pytest

from benchmarks.figure import Figure, report, table


def figure(**fields: Any) -> Figure:
    return Figure(**({"name": "a", "title": "A", "value": 1.0, "wanted": "at most", "bar": 2.0} | fields))


@pytest.mark.parametrize(
    ("value", "wanted", "is_met"),
    [
        (1.9, "at most", True),
        (2.0, "at most", True),
        (2.1, "at most", False),
        (2.1, "at least", True),
        (2.0, "at least", True),
        (1.9, "at least", False),
        (math.nan, "at most", False),
        (math.nan, "at least", False),
    ],
)
def test_a_bar_is_met_from_its_good_side(value: float, wanted: str, is_met: bool) -> None:
    assert figure(value=value, wanted=wanted).is_met is is_met


def test_a_report_says_value_bar_and_verdict_before_the_details() -> None:
    told = report([figure(details={"turns": 3}), figure(name="b", wanted="at least")])
    assert told == {
        "a": {"title": "A", "value": 1.0, "wanted": "at most", "bar": 2.0, "met": True, "turns": 3},
        "b": {"title": "A", "value": 1.0, "wanted": "at least", "bar": 2.0, "met": False},
    }


def test_a_table_has_a_line_for_each() -> None:
    assert table([figure(), figure()]).row_count == 2
