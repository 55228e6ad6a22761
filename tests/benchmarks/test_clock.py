import time

from benchmarks.clock import against, seconds


def test_the_median_lies_between_the_fastest_and_the_slowest() -> None:
    taken = seconds(lambda: time.sleep(0.002), repeats=5)
    assert 0.002 <= taken["fastest"] <= taken["median"] <= taken["slowest"]


def test_warming_up_is_not_timed() -> None:
    calls: list[int] = []
    taken = seconds(lambda: time.sleep(0 if calls else 0.2) or calls.append(1), repeats=3, warm_up=1)
    assert len(calls) == 4
    assert taken["slowest"] < 0.2


def test_a_ratio_says_how_much_longer_the_baseline_takes() -> None:
    timed = against(lambda: time.sleep(0.005), lambda: time.sleep(0.02), repeats=3)
    assert 2 < timed["baseline_over_work"] < 6


def test_two_ways_are_timed_in_turns() -> None:
    order: list[str] = []
    against(lambda: order.append("work"), lambda: order.append("baseline"), repeats=2)
    assert order == ["work", "baseline"] * 3
