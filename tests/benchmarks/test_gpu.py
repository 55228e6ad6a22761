import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.device.budget import Budget
from benchmarks.device.host import Gone, Host, Late
from benchmarks.device.plan import TOY, Case, make_plan
from benchmarks.device.record import Check, Clocks, Outcome, Record, read_record
from benchmarks.device.worker import Answer, Introduction
from benchmarks.gpu import MAX_DEATHS, default_path, is_chosen, run

PLAN = make_plan(TOY)
ROOT = Path(__file__).parents[2]


class FakeClock:
    """Time that passes when a case takes it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeHost(Host):
    """Answers as it is told, and lets time pass: processes do not fail when they should."""

    answer: Callable[[Case], Answer]
    clock: FakeClock
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.up = False
        self.starts = 0

    @property
    def is_up(self) -> bool:
        return self.up

    def ask(self, message: Any, seconds: float) -> Any:
        if not isinstance(message, Case):
            self.up, self.starts = True, self.starts + 1
            return Introduction()
        if self.seconds > seconds:
            self.clock.now += seconds
            raise Late(f"stopped after {seconds:.0f} s")
        self.clock.now += self.seconds
        return self.answer(message)

    def stop(self) -> str:
        self.up = False
        return "status 0"


def measured(case: Case, **fields: Any) -> Answer:
    given: dict[str, Any] = {"name": case.name, "case": case, "status": "measured"} | fields
    return Answer(outcome=Outcome(**given), clocks=Clocks())


def run_on(host: Host, clock: FakeClock, record: Record, path: Path, seconds: float = 1e6) -> list[Outcome]:
    record = replace(record, size="toy", cases=[], is_whole=False)
    run(host, record, PLAN, Budget(seconds, clock), path)
    again = read_record(path)
    assert again == record
    assert again.is_whole
    assert [each.case for each in again.cases] == PLAN
    assert all(each.reason for each in again.cases if each.status != "measured")
    return again.cases


def test_a_case_that_fails_stops_no_other(record: Record, tmp_path: Path) -> None:
    def answer(case: Case) -> Answer:
        if case.kind == "dense":
            return measured(case, status="failed", reason="ValueError: no")
        return measured(case)

    clock = FakeClock()
    cases = run_on(FakeHost(answer, clock), clock, record, tmp_path / "gpu.json")
    assert {each.case.kind for each in cases if each.status == "failed"} == {"dense"}
    assert {each.reason for each in cases if each.status == "failed"} == {"ValueError: no"}
    assert sum(each.status == "measured" for each in cases) == len(PLAN) - 1


def test_with_little_time_the_end_is_in_time_and_says_what_it_left_out(
    record: Record, tmp_path: Path
) -> None:
    clock = FakeClock()
    host = FakeHost(measured, clock, seconds=3.0)
    cases = run_on(host, clock, record, tmp_path / "gpu.json", seconds=12.0)
    assert clock.now <= 12.0
    assert [each.status for each in cases[:4]] == ["measured", "measured", "measured", "skipped"]
    assert "out of time: stopped after 1 s" in cases[3].reason
    assert {each.status for each in cases[4:]} == {"skipped"}
    assert all("out of time" in each.reason for each in cases[3:])


def test_a_process_that_ends_costs_one_case_and_one_that_always_ends_is_given_up(
    record: Record, tmp_path: Path
) -> None:
    died: list[str] = []

    def answer(case: Case, often: int) -> Answer:
        if len(died) < often:
            died.append(case.name)
            raise Gone("the measuring process ended with signal 11")
        return measured(case)

    for often, lost in ((1, 1), (1000, len(PLAN))):
        died.clear()
        clock = FakeClock()
        host = FakeHost(partial(answer, often=often), clock)
        cases = run_on(host, clock, record, tmp_path / "gpu.json")
        assert sum(each.status != "measured" for each in cases) == lost
        assert "signal 11" in cases[0].reason
        assert host.starts == (2 if often == 1 else MAX_DEATHS)
    assert f"ended {MAX_DEATHS} times" in cases[-1].reason


def test_a_device_that_is_broken_gets_a_new_process(record: Record, tmp_path: Path) -> None:
    def answer(case: Case) -> Answer:
        if case.kind == "dense":
            return replace(measured(case, status="failed", reason="illegal access"), is_broken=True)
        return measured(case)

    clock = FakeClock()
    host = FakeHost(answer, clock)
    run_on(host, clock, record, tmp_path / "gpu.json")
    assert host.starts == 2


def test_the_record_is_on_disk_after_every_case(record: Record, tmp_path: Path) -> None:
    seen: list[int] = []
    path = tmp_path / "gpu.json"

    def answer(case: Case) -> Answer:
        seen.append(len(json.loads(path.read_text())["cases"]) if path.exists() else 0)
        return measured(case)

    clock = FakeClock()
    run_on(FakeHost(answer, clock), clock, record, path)
    assert seen == list(range(len(PLAN)))


def test_only_whole_runs_of_full_size_go_to_the_results(record: Record) -> None:
    assert default_path(record, is_whole_plan=True) == Path("benchmarks/results/gpu-a-card.json")
    assert default_path(record, is_whole_plan=False).parent == Path("runs")
    assert default_path(replace(record, size="toy"), is_whole_plan=True).parent == Path("runs")


def test_cases_are_chosen_by_their_names() -> None:
    chosen = [case for case in PLAN if is_chosen(case, ["^checks$", "denoise hbridge .* eager"])]
    assert [case.kind for case in chosen] == ["checks", "denoise"]
    assert all(is_chosen(case, None) for case in PLAN)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [(("--only", "("), "--only"), (("--device", "cuda"), "device cuda is not usable here")],
    ids=["expression", "device"],
)
def test_what_the_user_can_change_is_said_in_a_line(words: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(app, ["gpu", "--toy", *words], env={"COLUMNS": "400", "TERM": "dumb"})
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_the_whole_plan_runs_at_toy_size_as_one_command(tmp_path: Path) -> None:
    path = tmp_path / "gpu-toy.json"
    words = ["-m", "benchmarks.gpu", "--toy", "--device", "cpu", "--seed", "5", "--output", str(path)]
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, *words, "--seconds", "60"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert time.monotonic() - begun < 65
    assert done.returncode == 0, done.stderr
    record = read_record(path)
    assert (record.size, record.seed, record.is_whole) == ("toy", 5, True)
    assert record.command == f"python -m benchmarks.gpu {' '.join(words[2:])} --seconds 60"
    assert [each.case for each in record.cases] == PLAN
    assert {each.status for each in record.cases} == {"measured", "skipped"}
    assert all(each.reason for each in record.cases if each.status == "skipped")
    assert [each.status for each in record.cases[:4]] == ["measured"] * 4
    assert record.failed_checks == []
    assert record.goals == []
    assert re.search(r"\d+ measured, \d+ skipped", done.stdout)


@pytest.mark.slow
def test_a_check_that_does_not_pass_is_a_bad_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Check(name="kernel", error=1.0, bound=0.1, passed=False)
    monkeypatch.setattr(
        "benchmarks.gpu._measure", lambda host, record, case, budget: measured(case, checks=(wrong,)).outcome
    )
    words = ["gpu", "--toy", "--device", "cpu", "--only", "checks", "--output", str(tmp_path / "gpu.json")]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "400", "TERM": "dumb"})
    assert result.exit_code == 1
    assert "did not pass: kernel" in result.output
