from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.device.measures import Bench
from benchmarks.device.networks import Unavailable
from benchmarks.device.plan import KINDS, TOY, Kind, make_plan
from model.family import Row

FIRST = {case.kind: case for case in reversed(make_plan(TOY))}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(torch.device("cpu"), "toy", seed=7)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "checks"])
def test_every_kind_of_case_is_measured(bench: Bench, kind: Kind) -> None:
    outcome = bench.measure(FIRST[kind])
    assert outcome.status == "measured"
    assert outcome.name == FIRST[kind].name
    assert (outcome.timed is None) == (kind == "ceilings")
    assert all(check.passed is not False for check in outcome.checks)
    if outcome.timed:
        timed = outcome.timed
        assert timed.operations > 0
        assert timed.operations_per_second == pytest.approx(timed.operations / timed.seconds.median)
        assert timed.weight_bytes > 0


def test_keys_and_values_that_are_kept_change_nothing(bench: Bench) -> None:
    kept = bench.measure(FIRST["kept"])
    assert kept.timed
    assert kept.timed.error == pytest.approx(0, abs=1e-6)
    assert kept.timed.baseline_name == "prefill every step"


def test_further_bridges_change_the_result_and_are_more_work(bench: Bench) -> None:
    dense = bench.measure(FIRST["dense"])
    assert dense.timed
    assert dense.timed.error
    assert dense.timed.error > 1e-3
    assert dense.checks[0].passed


def test_a_step_in_another_mode_is_compared_with_the_eager_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = bench.networks.get("hbridge", "float32").family

    def velocity_but_wrong(rows: Sequence[Row]) -> list[Tensor]:
        return [1.5 * each for each in family.velocity(rows)]

    case = next(
        case
        for case in make_plan(TOY)
        if (case.kind, case.model, case.mode) == ("step", "hbridge", "graphed")
    )
    for step, passed in ((family.velocity, True), (velocity_but_wrong, False)):
        monkeypatch.setattr("benchmarks.device.measures.make_step", lambda *given, step=step: step)
        (check,) = bench.measure(case).checks
        assert check.passed is passed
        assert check.name == f"{case.name} against eager float32"


def test_what_cannot_run_here_is_unavailable(bench: Bench) -> None:
    case = replace(FIRST["step"], precision="fp8")
    with pytest.raises(Unavailable, match="fp8"):
        bench.measure(case)
