from dataclasses import replace

import pytest

from benchmarks.device.goals import weigh
from benchmarks.device.plan import Case
from benchmarks.device.record import Check, Gaps, Outcome, Rate, Timed, Times

PICTURE = Case(kind="denoise", model="hbridge", side=1024, precision="bfloat16")


def drawn(case: Case, seconds: float, *, passed: bool = True) -> Outcome:
    times = Times(
        median=seconds,
        fastest=seconds,
        slowest=seconds,
        lower_quartile=seconds,
        upper_quartile=seconds,
        repeats=1,
    )
    timed = Timed(
        seconds=times,
        rows=2,
        tokens=1,
        operations=8 * 10**14,
        operations_per_second=1.0,
        gaps=Gaps(span_seconds=1.0, busy_seconds=0.9, share=0.1, launches=1, kernels=()),
    )
    check = Check(name="as eager", error=0.0, bound=1.0, passed=passed)
    return Outcome(name=case.name, case=case, status="measured", timed=timed, checks=(check,))


def test_the_fastest_right_picture_counts_with_its_floor_and_its_gaps() -> None:
    ceiling = Case(kind="ceilings")
    times = drawn(PICTURE, 1.0).timed
    assert times
    rate = Rate(
        name="matmul bfloat16 1x1x1",
        unit="operations",
        per_second=8e14,
        seconds=times.seconds,
        is_ceiling=True,
    )
    outcomes = [
        Outcome(name="ceilings", case=ceiling, status="measured", rates=(rate,)),
        drawn(PICTURE, 4.0),
        drawn(replace(PICTURE, mode="graphed"), 3.0),
        drawn(replace(PICTURE, mode="compiled"), 2.0, passed=False),
        drawn(replace(PICTURE, precision="fp8"), 1.0),
    ]
    seconds, gaps, *others = weigh(outcomes, "full")
    assert (seconds.measured, seconds.case, seconds.floor_seconds) == (
        3.0,
        "denoise hbridge generate 1024 graphed bfloat16",
        pytest.approx(1.0),
    )
    assert seconds.is_met
    assert gaps.measured == pytest.approx(0.1)
    assert gaps.is_met is False
    assert all(goal.measured is None for goal in others)


def test_without_measurements_all_goals_are_open_and_toys_have_none() -> None:
    goals = weigh([], "full")
    assert [goal.at_most for goal in goals if goal.unit == "s"] == [3.3, 5.5]
    assert [goal.is_met for goal in goals] == [None] * 4
    assert weigh([drawn(PICTURE, 1.0)], "toy") == []
