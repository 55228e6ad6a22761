"""What the engine does between steps, by function: where its part of a request's time goes."""

from cProfile import Profile
from pathlib import Path
from pstats import Stats
from typing import Any, cast

from benchmarks.driver import Driver
from benchmarks.workload import Work

ENGINE = "service/engine"
NUM_FUNCTIONS = 10

Row = tuple[int, int, float, float, object]


def profile_bookkeeping(driver: Driver, work: Work, *, repeats: int) -> dict[str, Any]:
    """Run a request some times under a profiler; return microseconds by step of the engine's functions.

    A profiler makes every call longer, so that the parts tell more than their sum. What a function calls
    outside the engine's own files counts as its own.
    """
    profile = Profile()
    first = len(driver.steps)
    driver.run_aside(profile.enable)
    for _ in range(repeats):
        driver.run(work)
    driver.run_aside(profile.disable)
    num_steps = len(driver.steps) - first - 2
    stats = cast(Any, Stats(profile)).stats
    own = {
        f"{Path(file).stem}.{name}": seconds / num_steps * 1e6
        for (file, _, name), (_, _, seconds, _, _) in stats.items()
        if ENGINE in Path(file).as_posix()
    }
    most = sorted(own.items(), key=lambda each: -each[1])[:NUM_FUNCTIONS]
    return {
        "steps": num_steps // repeats,
        "all_microseconds_of_a_step": round(sum(own.values()), 1),
        "microseconds_of_a_step": {name: round(each, 1) for name, each in most},
    }
