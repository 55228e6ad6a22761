import time

import pytest
import torch

from benchmarks.device.record import Clocks
from benchmarks.device.timing import Timer, read_clocks, settle, summary

CPU = torch.device("cpu")


def test_what_sleeps_longer_takes_longer_and_runs_that_warm_up_do_not_count() -> None:
    calls = []
    timer = Timer(CPU, repeats=3, seconds=60)

    def sleep() -> None:
        calls.append(None)
        time.sleep(0.2 if len(calls) == 1 else 0.01)

    times = timer.measure(sleep, warm_up=1)
    assert 0.01 <= times.median < 0.2
    assert (times.repeats, len(calls)) == (3, 4)
    assert times.fastest <= times.lower_quartile <= times.median <= times.upper_quartile <= times.slowest


def test_times_are_of_one_call() -> None:
    timer = Timer(CPU, repeats=1, seconds=60)
    assert 0.01 <= timer.measure(lambda: time.sleep(0.01), inner=5).median < 0.05


def test_no_run_begins_after_its_time_but_the_first() -> None:
    timer = Timer(CPU, repeats=9, seconds=0.05)
    assert timer.measure(lambda: time.sleep(0.03), warm_up=0).repeats == 2
    assert timer.measure(lambda: time.sleep(0.08), warm_up=0).repeats == 1


def test_ways_take_turns() -> None:
    order: list[str] = []
    ways = {name: lambda name=name: order.append(name) for name in "ab"}
    taken = Timer(CPU, repeats=2, seconds=60).in_turns(ways, warm_up=1)
    assert "".join(order) == "ababab"
    assert {name: each.repeats for name, each in taken.items()} == {"a": 2, "b": 2}


def test_a_summary_has_the_median_and_the_ends() -> None:
    times = summary([3.0, 1.0, 2.0, 10.0])
    assert (times.fastest, times.median, times.slowest, times.repeats) == (1.0, 2.5, 10.0, 4)


def test_a_device_is_kept_busy_for_as_long_as_asked() -> None:
    begun = time.perf_counter()
    settle(CPU, torch.float32, 16, 0.02)
    assert 0.02 <= time.perf_counter() - begun < 1


def test_a_processor_tells_no_clocks() -> None:
    assert read_clocks(CPU) == Clocks()


@pytest.mark.gpu
def test_events_agree_with_the_clock_on_a_gpu() -> None:
    device = torch.device("cuda")
    square = torch.randn(4096, 4096, device=device)
    timer = Timer(device, repeats=5, seconds=60)
    median = timer.measure(lambda: square @ square, inner=20).median
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(100):
        square @ square
    torch.cuda.synchronize()
    assert median == pytest.approx((time.perf_counter() - begun) / 100, rel=0.3)
