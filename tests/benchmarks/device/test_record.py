import json
from pathlib import Path
from typing import Any

import pydantic
import pytest

from benchmarks.device.plan import Case
from benchmarks.device.record import Check, Goal, Outcome, Rate, Record, Times, best_rate, read_record


def test_what_is_written_is_read_as_it_was(record: Record, tmp_path: Path) -> None:
    record.write(tmp_path / "sub" / "gpu-a.json")
    assert read_record(tmp_path / "sub" / "gpu-a.json") == record
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["gpu-a.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cases": [{"name": "x"}]}, "case"),
        ({"seconds": "long"}, "seconds"),
        ({"size": "medium"}, "size"),
        ({"further": 1}, "further"),
    ],
)
def test_what_is_not_as_declared_is_refused(
    record: Record, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "gpu-a.json"
    record.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(pydantic.ValidationError, match=said):
        read_record(path)


def test_checks_that_did_not_run_have_not_failed(record: Record) -> None:
    record.cases = [each for each in record.cases if each.status != "failed"]
    assert record.failed_checks == []
    assert record.is_right
    wrong = Check(name="wrong", error=float("inf"), bound=1e-2, passed=False)
    case = Case(kind="checks")
    record.cases.append(Outcome(name=case.name, case=case, status="measured", checks=(wrong,)))
    assert record.failed_checks == [wrong]
    assert not record.is_right


def test_a_case_that_failed_is_not_right(record: Record) -> None:
    assert not record.is_right


def test_the_best_rate_is_of_ceilings_of_that_name_alone() -> None:
    times = Times(median=1, fastest=1, slowest=1, lower_quartile=1, upper_quartile=1, repeats=1)
    rates = tuple(
        Rate(name=name, unit="operations", per_second=speed, seconds=times, is_ceiling=is_ceiling)
        for name, speed, is_ceiling in (
            ("matmul fp8", 9, True),
            ("matmul a", 2, True),
            ("matmul b", 3, True),
            ("matmul c", 8, False),
        )
    )
    case = Case(kind="ceilings")
    outcomes = [Outcome(name=case.name, case=case, status="measured", rates=rates)]
    assert best_rate(outcomes, "matmul fp8") == 9
    assert best_rate(outcomes, "matmul") == 9
    assert best_rate(outcomes, "matmul c") is None
    assert best_rate(outcomes, "copy") is None


@pytest.mark.parametrize(("measured", "is_met"), [(None, None), (0.9, True), (1.0, True), (1.1, False)])
def test_a_goal_is_met_from_below_once_it_is_measured(measured: float | None, is_met: bool | None) -> None:
    assert Goal(title="", unit="s", at_most=1.0, measured=measured).is_met is is_met
