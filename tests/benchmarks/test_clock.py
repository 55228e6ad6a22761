import math
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import clock
from benchmarks.clock import against, in_turns, quantile, ratios, seconds, spread

Work = Callable[[float], Callable[[], None]]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Return a function from seconds to work that takes so long by a clock that nothing else moves."""
    now = [0.0]
    monkeypatch.setattr(clock, "perf_counter", lambda: now[0])

    def make(duration: float) -> Callable[[], None]:
        return lambda: now.__setitem__(0, now[0] + duration)

    return make


def in_turn(*works: Callable[[], None]) -> Callable[[], None]:
    """Return work that is another one each time."""
    rest = iter(works)

    def do_next() -> None:
        next(rest)()

    return do_next


def test_the_median_lies_between_the_fastest_and_the_slowest(work: Work) -> None:
    taken = seconds(in_turn(*map(work, (1, 5, 2, 9, 3))), repeats=5, warm_up=0)
    assert taken == {"median": 3, "fastest": 1, "slowest": 9}


def test_warming_up_is_not_timed(work: Work) -> None:
    taken = seconds(in_turn(*map(work, (50, 1, 1, 1))), repeats=3, warm_up=1)
    assert taken["slowest"] == 1


def test_a_ratio_says_how_much_longer_the_baseline_takes(work: Work) -> None:
    timed: dict[str, Any] = against(work(0.5), work(2), repeats=3)
    assert timed == {"seconds": {"work": 0.5, "baseline": 2}, "baseline_over_work": 4}


def test_two_ways_are_timed_in_turns() -> None:
    order: list[str] = []
    against(lambda: order.append("work"), lambda: order.append("baseline"), repeats=2)
    assert order == ["work", "baseline"] * 3


def test_what_is_timed_in_turns_is_kept_by_turn_without_the_first(work: Work) -> None:
    taken = in_turns({"a": in_turn(*map(work, (50, 1, 2))), "b": in_turn(*map(work, (70, 4, 2)))}, repeats=2)
    assert taken == {"a": [1, 2], "b": [4, 2]}
    assert ratios(taken["b"], taken["a"]) == [4, 1]


def test_a_quantile_is_a_value_that_was_measured() -> None:
    assert [quantile([3, 1, 2, 4], share) for share in (0.25, 0.5, 0.95, 1.0)] == [1, 2, 4, 4]
    assert math.isnan(quantile([], 0.5))


def test_a_spread_is_the_quartiles_around_the_median() -> None:
    assert spread([5, 1, 2, 3, 4]) == [2, 3, 4]
    assert spread([1.23456], digits=2) == [1.23, 1.23, 1.23]
