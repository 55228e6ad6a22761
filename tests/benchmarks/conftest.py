from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.device.plan import Case
from benchmarks.device.record import Check, Device, Gaps, Goal, Kernel, Outcome, Rate, Record, Timed, Times
from service.engine.job import LoadedModel
from service.loading import load_model
from service.settings import Settings


@pytest.fixture(scope="session")
def tiny(model_folder: Path) -> LoadedModel:
    """A real model of a few thousand weights, in memory."""
    return load_model(Settings(model=str(model_folder)))


TIMES = Times(median=0.5, fastest=0.4, slowest=0.7, lower_quartile=0.45, upper_quartile=0.6, repeats=3)
KERNELS = (Kernel(name="gemm", seconds=0.4, launches=8), Kernel(name="a|b", seconds=0.05, launches=2))
GAPS = Gaps(span_seconds=0.5, busy_seconds=0.45, share=0.1, launches=10, kernels=KERNELS)
TIMED = Timed(
    seconds=TIMES, rows=2, tokens=8192, operations=10**12, operations_per_second=2e12, gaps=GAPS, error=1e-3
)


def rate(name: str, per_second: float, *, is_ceiling: bool = True) -> Rate:
    unit: Any = "bytes" if name == "copy" else "operations"
    return Rate(name=name, unit=unit, per_second=per_second, seconds=TIMES, is_ceiling=is_ceiling)


def outcome(case: Case, **fields: Any) -> Outcome:
    return Outcome(**({"name": case.name, "case": case, "status": "measured"} | fields))


@pytest.fixture
def record() -> Record:
    """A run on a GPU as it might have been: to read, to write and to show."""
    picture = Case(kind="denoise", model="hbridge", side=1024, precision="bfloat16")
    checks = (
        Check(name="right", error=1e-4, bound=1e-2, passed=True),
        Check(name="elsewhere", error=None, bound=1e-2, passed=None, reason="not here"),
    )
    return Record(
        command="python -m benchmarks.gpu",
        commit="abc",
        date="2026-01-01",
        device="A card",
        threads=1,
        python="3.12",
        versions={"torch": "2"},
        size="full",
        seed=1,
        hardware=Device(name="A card", kind="cuda", memory_bytes=2**36, capability="9.0"),
        budget_seconds=500.0,
        seconds=100.0,
        is_whole=True,
        goals=[Goal(title="soon", unit="s", at_most=1.0, case="x", measured=0.5, floor_seconds=0.25)],
        cases=[
            outcome(Case(kind="checks"), checks=checks),
            outcome(Case(kind="ceilings"), rates=(rate("matmul bfloat16 1x1x1", 4e12), rate("copy", 3e12))),
            outcome(picture, timed=TIMED),
            outcome(replace(picture, kind="step", mode="graphed"), timed=replace(TIMED, gaps=None)),
            outcome(
                replace(picture, kind="dense"),
                timed=replace(TIMED, baseline_name="every pair", baseline=TIMES),
            ),
            outcome(replace(picture, mode="compiled"), status="skipped", reason="out of time"),
            outcome(replace(picture, mode="graphed"), status="failed", reason="RuntimeError: no"),
        ],
    )
