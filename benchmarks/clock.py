"""Timing: warm up, repeat, take the median, say the spread."""

import statistics
import time
from collections.abc import Callable


def seconds(work: Callable[[], object], *, repeats: int = 7, warm_up: int = 2) -> dict[str, float]:
    """Return median, fastest and slowest of repeated runs, in seconds."""
    for _ in range(warm_up):
        work()
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return {
        "median": round(statistics.median(taken), 5),
        "fastest": round(min(taken), 5),
        "slowest": round(max(taken), 5),
    }


def against(
    work: Callable[[], object], baseline: Callable[[], object], *, repeats: int = 7
) -> dict[str, object]:
    """Time two ways in turns, so that a noisy machine is noisy for both, and return the ratio of medians."""
    taken: dict[str, list[float]] = {"work": [], "baseline": []}
    for index in range(repeats + 1):
        for name, run in (("work", work), ("baseline", baseline)):
            begun = time.perf_counter()
            run()
            if index:
                taken[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return {
        "seconds": {name: round(value, 5) for name, value in medians.items()},
        "baseline_over_work": round(medians["baseline"] / medians["work"], 3),
    }
