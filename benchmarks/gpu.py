"""Everything that is to be known of a GPU, by one command that ends in time.

python -m benchmarks.gpu, or hbridge bench gpu. Kernels and backends are checked, then the full-size networks
are timed with random weights, the cases that matter most first. A process apart has the device; this one
keeps the time, and writes the record after every case, so that a run that is cut off loses nothing.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from secrets import randbelow
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.device.budget import Budget
from benchmarks.device.goals import weigh
from benchmarks.device.host import Gone, Host, Late
from benchmarks.device.plan import SCALES, Case, Size, make_plan
from benchmarks.device.record import Outcome, Record, best_rate
from benchmarks.device.tables import ceilings_table, goals_table, line, summary
from benchmarks.device.worker import Answer, Introduction, work

RESULTS = Path("benchmarks/results")
SECONDS = 525.0
"""Of 540: the rest is for starting Python and for what surrounds it."""

MAX_DEATHS = 3
"""Of the measuring process in a row: then it is no case's fault."""

screen = Console(stderr=True)


class CannotMeasure(Exception):
    """This machine lacks something."""


def run(host: Host, record: Record, plan: Sequence[Case], budget: Budget, path: Path) -> None:
    """Measure a plan case by case, and write the record after each.

    Args:
        host: Measures.
        record: Takes the outcomes.
        plan: In the order of worth.
        budget: What no longer fits into it is skipped.
        path: Of the record.
    """
    start_seconds = SCALES[record.size].start_seconds
    deaths = 0
    for case in plan:
        needed = case.expected_seconds + (0 if host.is_up else start_seconds)
        reason = budget.why_not(needed)
        if deaths == MAX_DEATHS:
            reason = f"the measuring process ended {deaths} times in a row"
        if reason:
            outcome = Outcome(name=case.name, case=case, status="skipped", reason=reason)
        else:
            outcome = _measure(host, record, case, budget)
            deaths = 0 if host.is_up else deaths + 1
        record.cases.append(_with_share(outcome, record.cases))
        record.goals = weigh(record.cases, record.size)
        record.seconds = round(budget.spent, 3)
        record.write(path)
        screen.print(line(record.cases[-1]), soft_wrap=True, highlight=False)
    record.is_whole = True
    record.write(path)


def _measure(host: Host, record: Record, case: Case, budget: Budget) -> Outcome:
    limit, begun = min(case.max_seconds, budget.left), budget.spent
    try:
        if not host.is_up:
            introduce(host, limit)
        answer: Answer = host.ask(case, limit - (budget.spent - begun))
    except (Late, Gone, CannotMeasure) as error:
        host.stop()
        is_cut = isinstance(error, Late) and not budget.left
        return Outcome(
            name=case.name,
            case=case,
            status="skipped" if is_cut else "failed",
            reason=f"out of time: {error}" if is_cut else str(error),
            seconds=budget.spent - begun,
        )
    record.clocks = [*record.clocks[:1], answer.clocks]
    if answer.is_broken:
        host.stop()
    return answer.outcome


def introduce(host: Host, seconds: float) -> Introduction:
    """Let the measuring process say what it is.

    Raises:
        CannotMeasure: It lacks something; says what.
        Late: It did not start in time.
        Gone: It ended.
    """
    said: Introduction = host.ask("who are you?", seconds)
    if said.problem:
        host.stop()
        raise CannotMeasure(said.problem)
    return said


def _with_share(outcome: Outcome, earlier: Sequence[Outcome]) -> Outcome:
    """Add the share of the measured matmul rate of its precision, where that is known."""
    if outcome.timed is None:
        return outcome
    rate = best_rate(earlier, f"matmul {outcome.case.precision}")
    share = outcome.timed.operations_per_second / rate if rate else None
    return replace(outcome, timed=replace(outcome.timed, share_of_matmul=share))


def main(
    *,
    toy: Annotated[bool, typer.Option("--toy", help="Tiny networks, in seconds, also on a CPU.")] = False,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:1 or cpu.")] = "auto",
    seconds: Annotated[float, typer.Option(min=1, help="After which it has ended.")] = SECONDS,
    only: Annotated[
        list[str] | None, typer.Option(help="Regular expression of names of cases; may be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and inputs; drawn when left out.")] = None,
    commit: Annotated[
        str | None, typer.Option(help="Of this tree, for a copy of it that git does not know.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help=f"JSON file; {RESULTS}/gpu-DEVICE.json when left out.")
    ] = None,
) -> None:
    """Check and time the networks on a GPU."""
    budget = Budget(seconds)
    size: Size = "toy" if toy else "full"
    try:
        plan = [case for case in make_plan(SCALES[size]) if is_chosen(case, only)]
    except re.error as error:
        raise typer.BadParameter(str(error), param_hint="--only") from error
    seed = randbelow(2**31) if seed is None else seed
    with Host(work, size, device, seed, command()) as host:
        try:
            said = introduce(host, budget.left)
        except (CannotMeasure, Late, Gone) as error:
            raise typer.BadParameter(str(error), param_hint="this machine") from error
        assert said.hardware, "who has no problem says what it is"
        known: dict[str, Any] = {**said.circumstances, **({"commit": commit} if commit else {})}
        record = Record(**known, size=size, seed=seed, hardware=said.hardware, budget_seconds=seconds)
        path = output or default_path(record, is_whole_plan=not only)
        run(host, record, plan, budget, path)
    for each in (ceilings_table(record), goals_table(record)):
        Console().print(each)
    Console().print(*summary(record), f"written to {path}", sep="\n", soft_wrap=True, highlight=False)
    if not record.is_right:
        raise typer.Exit(1)


def is_chosen(case: Case, only: Sequence[str] | None) -> bool:
    """Whether a case's name fits one of these expressions; all do when there are none."""
    return not only or any(re.search(each, case.name) for each in only)


def default_path(record: Record, *, is_whole_plan: bool) -> Path:
    """Return where a record goes: to the results only what is a figure."""
    name = re.sub(r"[^a-z0-9]+", "-", record.hardware.name.lower()).strip("-")
    is_figure = record.size == "full" and is_whole_plan
    return (RESULTS if is_figure else Path("runs")) / f"gpu-{name}.json"


def command() -> str:
    """Return the command that this process was started with."""
    name = Path(sys.argv[0]).name
    return " ".join(["python -m benchmarks.gpu" if name == "gpu.py" else name, *sys.argv[1:]])


if __name__ == "__main__":
    typer.run(main)
