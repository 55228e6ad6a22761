"""What a run says on the screen: a line for each case, and short tables at its end."""

from collections import Counter

from rich.markup import escape
from rich.table import Table

from benchmarks.device.record import Goal, Outcome, Record

COLOURS = {"measured": "green", "skipped": "yellow", "failed": "bold red"}


def line(outcome: Outcome) -> str:
    """Return a case and what became of it."""
    said = [f"[{COLOURS[outcome.status]}]{outcome.status}[/] {escape(outcome.name)}"]
    if outcome.timed:
        timed = outcome.timed
        said.append(f"{timed.seconds.median:.4g} s, {timed.operations_per_second / 1e12:.4g} TFLOP/s")
        said += [f"gaps {timed.gaps.share:.1%}"] if timed.gaps else []
        said += [f"{timed.baseline_over_work:.3g}x"] if timed.baseline_over_work else []
    said += [
        f"[bold red]{escape(check.name)}: error {check.error} above {check.bound}[/]"
        for check in outcome.checks
        if check.passed is False
    ]
    said += [escape(outcome.reason)] if outcome.reason else []
    return ": ".join([said[0], ", ".join(said[1:])]) if said[1:] else said[0]


def ceilings_table(record: Record) -> Table:
    """Show what the device can do at its best."""
    table = Table("ceiling", "measured")
    for rate in (rate for each in record.cases for rate in each.rates if rate.is_ceiling):
        unit = "TFLOP/s" if rate.unit == "operations" else "TB/s"
        table.add_row(rate.name, f"{rate.per_second / 1e12:.4g} {unit}")
    return table


def goals_table(record: Record) -> Table:
    """Show goals beside what was measured, floors and the gap to each."""
    table = Table("goal", "at most", "measured", "over goal", "floor", "over floor", "case")
    for goal in record.goals:
        table.add_row(*goal_cells(goal))
    return table


def goal_cells(goal: Goal) -> tuple[str, ...]:
    """Return a goal as words: title, bound, measured, ratio to it, floor, ratio to that, case."""
    floor, measured = goal.floor_seconds, goal.measured
    return (
        goal.title,
        _said(goal.at_most, goal.unit),
        "not measured" if measured is None else _said(measured, goal.unit),
        "" if measured is None else f"{measured / goal.at_most:.2f}",
        "" if floor is None else _said(floor, "s"),
        "" if floor is None or measured is None else f"{measured / floor:.2f}",
        goal.case,
    )


def summary(record: Record) -> list[str]:
    """Return a line for each sum, and one for each check that did not pass and each case that failed."""
    counts = Counter(each.status for each in record.cases)
    checks = [check for each in record.cases for check in each.checks]
    passed, absent = (sum(check.passed is verdict for check in checks) for verdict in (True, None))
    lines = [
        ", ".join(f"{count} {status}" for status, count in counts.items()) + f" in {record.seconds:.0f} s",
        f"{passed} of {len(checks)} checks passed, {absent} cannot run here",
    ]
    lines += [
        f"did not pass: {check.name}: {check.error}, {check.bound} at most" for check in record.failed_checks
    ]
    lines += [f"failed: {each.name}: {each.reason}" for each in record.cases if each.status == "failed"]
    return lines


def _said(value: float, unit: str) -> str:
    return f"{value:.1%}" if unit == "share" else f"{value:.3g} s"
