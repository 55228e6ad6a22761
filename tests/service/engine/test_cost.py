import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.cost import CostModel, Load, Stage

LOADS = st.builds(
    Load, rows=st.integers(1, 64), tokens=st.integers(1, 100_000), pairs=st.integers(0, 1_000_000_000)
)
SECONDS = st.floats(1e-6, 1e3)


def law(load: Load, seconds: float = 0.01) -> float:
    """A device whose steps cost something each, and something for all that is in them."""
    return seconds * (1 + load.rows / 4 + load.tokens / 500 + load.pairs / 1e6)


def some_loads(count: int) -> list[Load]:
    """Loads as calibration would try them: few and many rows of small and large images."""
    draw = random.Random(0)
    loads = []
    for _ in range(count):
        rows, tokens, keys = draw.choice((1, 2, 4, 8)), draw.choice((64, 256, 1024)), draw.choice((50, 500))
        loads.append(Load(rows=rows, tokens=rows * tokens, pairs=rows * tokens * (tokens + keys)))
    return loads


def taught(count: int = 50, seconds: float = 0.01) -> CostModel:
    costs = CostModel()
    for load in some_loads(count):
        costs.observe("denoise", load, law(load, seconds))
    return costs


def worst_error(costs: CostModel, seconds: float = 0.01) -> float:
    return max(abs(costs.seconds("denoise", load) / law(load, seconds) - 1) for load in some_loads(20))


def test_loads_add_up_and_the_empty_load_adds_nothing() -> None:
    load = Load(rows=1, tokens=2, pairs=3)
    assert load + load == Load(rows=2, tokens=4, pairs=6)
    assert load + Load() == load


def test_before_anything_was_observed_nothing_is_expected() -> None:
    costs = CostModel()
    assert costs.num_observed("denoise") == 0
    assert costs.seconds("denoise", Load(rows=1, tokens=100, pairs=100)) == 0


def test_a_devices_costs_are_learnt_from_a_few_steps() -> None:
    assert worst_error(taught(24)) < 0.05
    assert worst_error(taught(200)) < 0.02


def test_each_stage_learns_for_itself() -> None:
    costs = taught(10)
    assert costs.num_observed("denoise") == 10
    assert costs.num_observed("answer") == 0
    assert costs.seconds("answer", some_loads(1)[0]) == 0


@settings(max_examples=50, deadline=None, derandomize=True)
@given(steps=st.lists(st.tuples(LOADS, SECONDS), max_size=12), load=LOADS, more=LOADS)
def test_whatever_was_observed_no_cost_is_negative_and_none_falls_when_the_load_grows(
    steps: list[tuple[Load, float]], load: Load, more: Load
) -> None:
    costs = CostModel()
    for observed, seconds in steps:
        costs.observe("denoise", observed, seconds)
    assert 0 <= costs.seconds("denoise", load) <= costs.seconds("denoise", load + more)


@pytest.mark.parametrize("factor", [100, 5, 0.01])
def test_a_single_freak_time_moves_little(factor: float) -> None:
    costs, load = taught(200), some_loads(1)[0]
    before = costs.seconds("denoise", load)
    costs.observe("denoise", load, factor * law(load))
    assert costs.seconds("denoise", load) == pytest.approx(before, rel=0.05)


def test_a_slow_first_step_is_soon_forgotten() -> None:
    costs, load = CostModel(), some_loads(1)[0]
    costs.observe("denoise", load, 100 * law(load))
    costs.observe("denoise", load, law(load))
    assert costs.seconds("denoise", load) == pytest.approx(law(load), rel=0.05)


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_device_that_became_another_is_learnt_anew(factor: float) -> None:
    costs = taught()
    for load in some_loads(1000):
        costs.observe("denoise", load, law(load, 0.01 * factor))
    assert worst_error(costs, 0.01 * factor) < 0.05


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_teaches_nothing(seconds: float) -> None:
    costs = CostModel()
    costs.observe("denoise", some_loads(1)[0], seconds)
    assert costs.num_observed("denoise") == 0


def test_what_was_learnt_survives_in_a_file_and_learns_on(tmp_path: Path) -> None:
    costs, path = taught(), tmp_path / "costs" / "device.json"
    costs.to_file(path)
    again = CostModel.from_file(path)
    stages: tuple[Stage, ...] = ("prefill", "denoise")
    for load in some_loads(5):
        for stage in stages:
            assert again.seconds(stage, load) == costs.seconds(stage, load)
            assert again.num_observed(stage) == costs.num_observed(stage)
        for each in (costs, again):
            each.observe("denoise", load, 2 * law(load))
    assert [path.name for path in path.parent.iterdir()] == ["device.json"]


def test_where_no_file_is_learning_begins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert CostModel.from_file(tmp_path / "none.json").num_observed("denoise") == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def spoilt(**changes: Any) -> str:
    fit = {"num_observed": 1, "moments": [[1.0] * 5] * 5, "targets": [1.0] * 5, "weights": [1.0] * 5}
    stages: dict[str, Any] = dict.fromkeys(("prefill", "denoise", "decode"), fit)
    return json.dumps({"format": "hbridge-cost-1", "stages": stages | {"answer": fit | changes}})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\xff",
        "[1]",
        "null",
        "[" * 100_000,
        '{"format": "hbridge-cost-0", "stages": {}}',
        '{"format": "hbridge-cost-1", "stages": {}}',
        spoilt()[:-9],
        spoilt(weights=[1.0] * 4),
        spoilt(weights=[-1.0] * 5),
        spoilt(targets=[float("nan")] * 5),
        spoilt(targets=["1"] * 5),
        spoilt(moments=[[1.0] * 5] * 4),
        spoilt(num_observed=None),
        spoilt(surprise=1),
    ],
)
def test_a_file_that_is_not_ours_is_logged_and_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = tmp_path / "costs.json"
    path.write_bytes(text.encode("latin-1"))
    costs = CostModel.from_file(path)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert costs.num_observed("prefill") == 0
    assert path.read_bytes() == text.encode("latin-1")


def test_a_well_formed_file_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(spoilt())
    assert CostModel.from_file(path).num_observed("answer") == 1


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "costs.json").mkdir()
    with pytest.raises(OSError, match="costs"):
        taught(1).to_file(tmp_path / "costs.json")
    assert [path.name for path in tmp_path.iterdir()] == ["costs.json"]
