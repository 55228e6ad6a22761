import time

import pytest
import torch

from benchmarks.device.gaps import measure_gaps, union
from benchmarks.device.timing import Timer


@pytest.mark.parametrize(
    ("intervals", "length"),
    [([], 0), ([(0, 2), (1, 3)], 3), ([(5, 6), (0, 2)], 3), ([(0, 10), (2, 3), (4, 12)], 12)],
)
def test_what_overlaps_counts_once(intervals: list[tuple[float, float]], length: float) -> None:
    assert union(intervals) == length


def test_time_in_which_nothing_runs_is_a_gap() -> None:
    square = torch.randn(256, 256)

    def work() -> None:
        square @ square
        time.sleep(0.1)

    gaps = measure_gaps(Timer(torch.device("cpu"), repeats=1, seconds=1), work)
    assert gaps.span_seconds > 0.1
    assert 0.5 < gaps.share <= 1
    assert gaps.busy_seconds == pytest.approx(gaps.span_seconds * (1 - gaps.share), rel=0.01)
    names = [kernel.name for kernel in gaps.kernels]
    assert "aten::mm" in names
    taken = [kernel.seconds for kernel in gaps.kernels]
    assert taken == sorted(taken, reverse=True)
