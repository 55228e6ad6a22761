"""How much of a span a device does nothing: kernels' own times, from the profiler, against the span.

The span is taken without the profiler, which slows the launching down and the kernels hardly.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.device.record import Gaps, Kernel
from benchmarks.device.timing import Timer, synchronize

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
ON_CPU = ("cpu_op",)
NUM_KERNELS = 20
Interval = tuple[float, float]


def measure_gaps(timer: Timer, work: Callable[[], object]) -> Gaps:
    """Run work twice, once timed and once profiled."""
    device = timer.device
    span_seconds = timer.once(work)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        work()
        synchronize(device)
    kinds = ON_DEVICE if device.type == "cuda" else ON_CPU
    events = [each for each in _trace(profiler) if each.get("cat") in kinds and "dur" in each]
    busy_seconds = union([(each["ts"], each["ts"] + each["dur"]) for each in events]) / 1e6
    return Gaps(
        span_seconds=span_seconds,
        busy_seconds=busy_seconds,
        share=max(0.0, 1 - busy_seconds / span_seconds),
        launches=len(events),
        kernels=_longest((each["name"], each["dur"] / 1e6) for each in events),
    )


def union(intervals: Iterable[Interval]) -> float:
    """Return the length that intervals cover together."""
    covered, end = 0.0, float("-inf")
    for begin, until in sorted(intervals):
        covered += max(0.0, until - max(begin, end))
        end = max(end, until)
    return covered


def _longest(taken: Iterable[tuple[str, float]]) -> tuple[Kernel, ...]:
    of_name: dict[str, list[float]] = defaultdict(list)
    for name, seconds in taken:
        of_name[name].append(seconds)
    kernels = [Kernel(name=name, seconds=sum(each), launches=len(each)) for name, each in of_name.items()]
    return tuple(sorted(kernels, key=lambda kernel: -kernel.seconds)[:NUM_KERNELS])


def _trace(profiler: Any) -> list[dict[str, Any]]:
    """Return the profiler's events in the trace format, where kernels are told from marks laid over them."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return events
