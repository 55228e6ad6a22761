"""Timing: warm up, repeat, take the median, say the spread."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

Taken = dict[str, list[float]]
"""Seconds of each turn, by what was timed."""


def seconds(work: Callable[[], object], *, repeats: int = 7, warm_up: int = 2) -> dict[str, float]:
    """Return median, fastest and slowest of repeated runs, in seconds."""
    for _ in range(warm_up):
        work()
    taken = []
    for _ in range(repeats):
        begun = perf_counter()
        work()
        taken.append(perf_counter() - begun)
    return {
        "median": round(statistics.median(taken), 5),
        "fastest": round(min(taken), 5),
        "slowest": round(max(taken), 5),
    }


def in_turns(ways: Mapping[str, Callable[[], object]], *, repeats: int = 7) -> Taken:
    """Time several ways in turns, so that a noisy machine is noisy for all; a first turn warms up."""
    taken: Taken = {name: [] for name in ways}
    for index in range(repeats + 1):
        for name, run in ways.items():
            begun = perf_counter()
            run()
            if index:
                taken[name].append(perf_counter() - begun)
    return taken


def against(
    work: Callable[[], object], baseline: Callable[[], object], *, repeats: int = 7
) -> dict[str, object]:
    """Time two ways in turns and return the ratio of medians."""
    taken = in_turns({"work": work, "baseline": baseline}, repeats=repeats)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return {
        "seconds": {name: round(value, 5) for name, value in medians.items()},
        "baseline_over_work": round(medians["baseline"] / medians["work"], 3),
    }


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Divide what was taken in the same turn: what slowed both down cancels out."""
    return [a / b for a, b in zip(above, below, strict=True)]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that this share of the values does not exceed; nan of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def spread(values: Sequence[float], *, digits: int = 4) -> list[float]:
    """Return lower quartile, median and upper quartile."""
    return [
        round(each, digits)
        for each in (quantile(values, 0.25), statistics.median(values), quantile(values, 0.75))
    ]
