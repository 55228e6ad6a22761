from collections.abc import Iterator

from benchmarks.device.budget import WRITE_SECONDS, Budget


def clock(*times: float) -> Iterator[float]:
    yield from times


def test_what_is_spent_is_no_longer_left_and_what_is_kept_back_never_was() -> None:
    ticks = clock(10, 10, 40)
    budget = Budget(100, lambda: next(ticks))
    assert budget.left == 100 - WRITE_SECONDS
    assert budget.left == 70 - WRITE_SECONDS


def test_nothing_is_left_after_the_end() -> None:
    ticks = clock(0, 500, 500)
    budget = Budget(100, lambda: next(ticks))
    assert budget.left == 0
    assert budget.why_not(0).startswith("out of time")


def test_what_fits_may_begin_and_what_does_not_is_told_why() -> None:
    budget = Budget(100, lambda: 0.0)
    assert budget.why_not(90) == ""
    assert budget.why_not(99) == "out of time: about 99 s needed, 98 s left of 100"
