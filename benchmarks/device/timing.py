"""Timing on a device: warm up, repeat, take the median, say the spread."""

import statistics
from collections.abc import Callable, Mapping
from time import perf_counter

import torch

from benchmarks.clock import quantile
from benchmarks.device.record import Clocks, Times


class Timer:
    """Times work on one device: by its events where it has them, else by this process's clock.

    Args:
        device: What the work runs on.
        repeats: Timed runs, at most.
        seconds: After which no further run begins.
    """

    def __init__(self, device: torch.device, *, repeats: int, seconds: float) -> None:
        self.device = device
        self._repeats, self._seconds = repeats, seconds

    def measure(self, work: Callable[[], object], *, warm_up: int = 2, inner: int = 1) -> Times:
        """Time repeated runs of work.

        Args:
            work: Called again and again.
            warm_up: Runs before the first that counts.
            inner: Calls of each run, so that short ones are not all launch; times are of one call.
        """
        return self.in_turns({"": work}, warm_up=warm_up, inner=inner)[""]

    def in_turns(
        self, ways: Mapping[str, Callable[[], object]], *, warm_up: int = 1, inner: int = 1
    ) -> dict[str, Times]:
        """Time several ways in turns, so that whatever changes on the device changes for all."""
        for _ in range(warm_up):
            for work in ways.values():
                work()
        taken: dict[str, list[float]] = {name: [] for name in ways}
        begun = perf_counter()
        for index in range(self._repeats):
            if index and perf_counter() - begun > self._seconds:
                break
            for name, work in ways.items():
                taken[name].append(self.once(work, inner) / inner)
        return {name: summary(each) for name, each in taken.items()}

    def once(self, work: Callable[[], object], calls: int = 1) -> float:
        """Return the seconds that so many calls take."""
        if self.device.type != "cuda":
            begun = perf_counter()
            for _ in range(calls):
                work()
            return perf_counter() - begun
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(self.device)
        start.record()
        for _ in range(calls):
            work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


def summary(seconds: list[float]) -> Times:
    """Return median and spread."""
    return Times(
        median=statistics.median(seconds),
        fastest=min(seconds),
        slowest=max(seconds),
        lower_quartile=quantile(seconds, 0.25),
        upper_quartile=quantile(seconds, 0.75),
        repeats=len(seconds),
    )


def settle(device: torch.device, dtype: torch.dtype, side: int, seconds: float) -> None:
    """Keep a device busy until its clocks are where work brings them."""
    square = torch.randn(side, side, device=device).to(dtype)
    begun = perf_counter()
    while perf_counter() - begun < seconds:
        square @ square
        synchronize(device)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def read_clocks(device: torch.device) -> Clocks:
    """Ask a card how it stands; nothing where it cannot be asked."""
    if device.type != "cuda":
        return Clocks()
    try:
        return Clocks(
            megahertz=torch.cuda.clock_rate(device),
            celsius=torch.cuda.temperature(device),
            watts=torch.cuda.power_draw(device) / 1000,
        )
    except (ImportError, RuntimeError):  # the library that asks is no part of PyTorch
        return Clocks()
