"""What is written of a run: plain dataclasses, so that a bare GPU machine can write them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from benchmarks.device.plan import Case, Size

Status = Literal["measured", "skipped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of repeated runs."""

    median: float
    fastest: float
    slowest: float
    lower_quartile: float
    upper_quartile: float
    repeats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How fast the device does one thing.

    Attributes:
        name: `matmul bfloat16 8192x8192x8192`, or `copy`.
        per_second: Operations, or bytes read and written.
        is_ceiling: Whether it is large enough to be one; the model's own shapes are not.
    """

    name: str
    unit: Literal["operations", "bytes"]
    per_second: float
    seconds: Times
    is_ceiling: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How far a fast way is from its plain twin.

    Attributes:
        error: Norm of the difference over the norm of the twin's result; None when it did not run.
        bound: The most that error may be.
        passed: None when it cannot run here, for the reason given.
    """

    name: str
    error: float | None
    bound: float
    passed: bool | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """All launches of one kernel in what was profiled."""

    name: str
    seconds: float
    launches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """How much of a span the device did nothing.

    Attributes:
        span_seconds: Of the same work without the profiler.
        busy_seconds: In which at least one kernel ran.
        share: Of the span in which none did.
        launches: Of all kernels.
        kernels: Those that take longest, the longest first.
    """

    span_seconds: float
    busy_seconds: float
    share: float
    launches: int
    kernels: tuple[Kernel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What a call of the networks takes.

    Attributes:
        operations: Counted from shapes; see model/flops.py.
        share_of_matmul: Of the largest measured matmul rate of its precision, once there is one.
        peak_bytes: Of device memory in the timed runs, other networks' weights left out; None where unknown.
        weight_bytes: Of the network.
        backend: Of the generation side's attention.
        baseline: The other way, in turns with it.
        baseline_over_work: Ratio of medians.
        error: Distance of its result from that of its plain twin, or of the other way.
    """

    seconds: Times
    rows: int
    tokens: int
    operations: int
    operations_per_second: float
    share_of_matmul: float | None = None
    peak_bytes: int | None = None
    weight_bytes: int = 0
    backend: str = ""
    gaps: Gaps | None = None
    baseline_name: str = ""
    baseline: Times | None = None
    baseline_over_work: float | None = None
    error: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case.

    Attributes:
        reason: Why it was skipped or failed.
        seconds: It took in all.
        checks: What was compared; a single one that did not pass fails the whole run.
    """

    name: str
    case: Case
    status: Status
    reason: str = ""
    seconds: float = 0.0
    checks: tuple[Check, ...] = ()
    rates: tuple[Rate, ...] = ()
    timed: Timed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What was measured on; what cannot be found out is None."""

    name: str
    kind: Literal["cuda", "cpu"]
    memory_bytes: int | None = None
    capability: str | None = None
    multiprocessors: int | None = None
    cache_bytes: int | None = None
    cuda: str | None = None
    driver: str | None = None
    triton: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The state of the card: core clock, temperature and power as it reports them."""

    megahertz: int | None = None
    celsius: int | None = None
    watts: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A time that is wanted, and what was measured.

    Attributes:
        case: Name of the fastest case that counts for it; empty when none was measured.
        floor_seconds: Its operations at the measured matmul rate: no version is much faster.
    """

    title: str
    unit: Literal["s", "share"]
    at_most: float
    case: str = ""
    measured: float | None = None
    floor_seconds: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether it is; None while nothing was measured."""
        return None if self.measured is None else self.measured <= self.at_most


@dataclass(slots=True, kw_only=True)
class Record:
    """A whole run.

    Attributes:
        size: Toy runs are for tests, and no figures.
        seed: Of weights, inputs and noise.
        is_whole: Whether the run came to its end, skipped cases or not.
        clocks: Before the first case and after the last.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    command: str
    commit: str
    date: str
    device: str
    threads: int
    python: str
    versions: dict[str, str]
    size: Size
    seed: int
    hardware: Device
    budget_seconds: float
    seconds: float = 0.0
    is_whole: bool = False
    clocks: list[Clocks] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    cases: list[Outcome] = field(default_factory=list)

    @property
    def failed_checks(self) -> list[Check]:
        """All that did not pass."""
        return [check for each in self.cases for check in each.checks if check.passed is False]

    @property
    def is_right(self) -> bool:
        """Whether every check that could run has passed, and nothing went wrong."""
        return not self.failed_checks and all(each.status != "failed" for each in self.cases)

    def write(self, path: Path) -> None:
        """Write it as JSON; a run that is cut off while it writes leaves the file of before."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        beside.replace(path)


def read_record(path: Path) -> Record:
    """Read a run; everything in it must be as declared above.

    Raises:
        pydantic.ValidationError: It is not.
    """
    from pydantic import TypeAdapter  # noqa: PLC0415 - a bare GPU machine writes records and reads none

    return TypeAdapter(Record).validate_json(path.read_bytes(), strict=True)


def best_rate(outcomes: Sequence[Outcome], prefix: str) -> float | None:
    """Return the fastest measured ceiling whose name begins so."""
    rates: list[float] = [
        rate.per_second
        for outcome in outcomes
        for rate in outcome.rates
        if rate.is_ceiling and rate.name.startswith(prefix)
    ]
    return max(rates, default=None)
