from rich.console import Console

from benchmarks.device.plan import Case
from benchmarks.device.record import Check, Goal, Outcome, Record, Timed, Times
from benchmarks.device.tables import goal_cells, line, summary

CASE = Case(kind="step", model="hbridge", side=1024, precision="bfloat16")


def said(outcome: Outcome) -> str:
    console = Console(width=300, color_system=None)
    with console.capture() as captured:
        console.print(line(outcome))
    return captured.get().strip()


def test_a_line_says_what_became_of_a_case() -> None:
    times = Times(median=0.5, fastest=0.5, slowest=0.5, lower_quartile=0.5, upper_quartile=0.5, repeats=1)
    timed = Timed(seconds=times, rows=1, tokens=1, operations=1, operations_per_second=3e14)
    assert said(Outcome(name=CASE.name, case=CASE, status="measured", timed=timed)) == (
        "measured step hbridge generate 1024 eager bfloat16: 0.5 s, 300 TFLOP/s"
    )
    skipped = Outcome(name="x", case=CASE, status="skipped", reason="no [time]")
    assert said(skipped) == "skipped x: no [time]"


def test_a_check_that_did_not_pass_is_seen() -> None:
    wrong = Check(name="kernel", error=0.5, bound=0.01, passed=False)
    assert "kernel: error 0.5 above 0.01" in said(
        Outcome(name="checks", case=CASE, status="measured", checks=(wrong,))
    )


def test_a_goal_stands_beside_what_was_measured_and_its_floor() -> None:
    goal = Goal(title="soon", unit="s", at_most=3.0, case="x", measured=3.6, floor_seconds=2.4)
    assert goal_cells(goal) == ("soon", "3 s", "3.6 s", "1.20", "2.4 s", "1.50", "x")
    assert goal_cells(Goal(title="later", unit="share", at_most=0.03))[1:3] == ("3.0%", "not measured")


def test_a_summary_names_what_failed(record: Record) -> None:
    lines = summary(record)
    assert lines[0] == "5 measured, 1 skipped, 1 failed in 100 s"
    assert lines[1] == "1 of 2 checks passed, 1 cannot run here"
    assert lines[2:] == ["failed: denoise hbridge generate 1024 graphed bfloat16: RuntimeError: no"]
