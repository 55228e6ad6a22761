"""The page and the plots of what was measured on GPUs.

python -m benchmarks.report reads benchmarks/results/gpu-*.json and writes gpu.md and a plot for each of them.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.device.plan import MODES, Kind
from benchmarks.device.record import Gaps, Outcome, Record, Timed, best_rate, read_record
from benchmarks.device.tables import goal_cells

RESULTS = Path("benchmarks/results")
PAGE = "gpu.md"
NONE_YET = (
    "No GPU figure has been measured yet. `python -m benchmarks.gpu` on a machine with one writes a record, "
    "and `python -m benchmarks.report` this page ([how](../README.md))."
)
NUM_KERNELS = 10
NAME_LENGTH = 90
WIDTH_INCHES = 9.0

Cells = Sequence[str]
screen = Console(stderr=True)


def main(
    folder: Annotated[Path, typer.Argument(help="With gpu-*.json in it.")] = RESULTS,
) -> None:
    """Make the page and the plots of all records in a folder."""
    records = {path: read_record(path) for path in sorted(folder.glob("gpu-*.json"))}
    for path, record in records.items():
        plot(record, path.with_suffix(".png"))
    (folder / PAGE).write_text(page(records), encoding="utf-8")
    screen.print(f"{len(records)} records, written to {folder / PAGE}", soft_wrap=True)


def page(records: dict[Path, Record]) -> str:
    """Return the page of these records."""
    parts = ["# Measured on GPUs", *([] if records else [NONE_YET])]
    for path, record in records.items():
        parts += _section(record, path)
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(record: Record, path: Path) -> list[str]:
    """Return one record's part of the page."""
    return [
        f"## {record.hardware.name}",
        _circumstances(record, path),
        f"![Steps and gaps]({path.with_suffix('.png').name})",
        *_titled("Goals", _goals(record)),
        *_titled("Ceilings", _ceilings(record)),
        *_titled("Whole pictures", _timed(record, "denoise")),
        *_kernels(record),
        *_titled("One packed step", _timed(record, "step")),
        *_titled("Prefill", _timed(record, "prefill")),
        *_titled("Autoencoder", _timed(record, "encode", "decode")),
        *_titled("What the design saves", _savings(record)),
        *_titled("Checks", _checks(record)),
        *_titled("Not measured", _unmeasured(record)),
    ]


def _titled(title: str, content: str) -> list[str]:
    return [f"### {title}", content] if content else []


def _circumstances(record: Record, path: Path) -> str:
    card, versions = record.hardware, record.versions
    memory = f", {card.memory_bytes / 2**30:.0f} GiB" if card.memory_bytes else ""
    states = [
        f"{clocks.megahertz} MHz, {clocks.celsius} °C, {clocks.watts:.0f} W"
        for clocks in record.clocks
        if clocks.megahertz is not None and clocks.watts is not None
    ]
    said = [
        f"`{record.command}`, commit {record.commit}, {record.date}, {record.seconds:.0f} s of "
        f"{record.budget_seconds:.0f}{'' if record.is_whole else ', cut off'}; [record]({path.name}).",
        f"Compute capability {card.capability}{memory}, driver {card.driver}, CUDA {card.cuda}, torch "
        f"{versions.get('torch')}, Triton {card.triton}, Python {record.python}.",
        f"Weights are random, seed {record.seed}. Times are medians, with the middle half of the runs.",
        f"After the first case and after the last: {'; '.join(states)}." if states else "",
    ]
    return "\n".join(line for line in said if line)


def _goals(record: Record) -> str:
    head = ("goal", "at most", "measured", "over goal", "floor", "over floor", "case")
    return _table(head, [goal_cells(goal) for goal in record.goals])


def _ceilings(record: Record) -> str:
    rows = []
    for rate in (rate for each in record.cases for rate in each.rates):
        unit = "TFLOP/s" if rate.unit == "operations" else "TB/s"
        kind = "ceiling" if rate.is_ceiling else "a layer of the model"
        rows.append((rate.name, kind, f"{rate.per_second / 1e12:.4g} {unit}", f"{rate.seconds.repeats}"))
    return _table(("what", "as", "rate", "runs"), rows)


def _timed(record: Record, *kinds: Kind) -> str:
    head = (
        *(
            "case",
            "rows",
            "tokens",
            "seconds",
            "middle half",
            "TFLOP/s",
            "of matmul",
            "floor",
            "gaps",
            "peak",
        ),
        "error",
    )
    rows = []
    for each, timed in _with_times(record, *kinds):
        rate = best_rate(record.cases, f"matmul {each.case.precision}")
        rows.append(
            (
                each.name,
                f"{timed.rows}",
                f"{timed.tokens}",
                f"{timed.seconds.median:.4g}",
                f"{timed.seconds.lower_quartile:.4g} to {timed.seconds.upper_quartile:.4g}",
                f"{timed.operations_per_second / 1e12:.4g}",
                _or_nothing(timed.share_of_matmul, "{:.0%}"),
                _or_nothing(timed.operations / rate if rate else None, "{:.4g}"),
                _or_nothing(timed.gaps.share if timed.gaps else None, "{:.1%}"),
                _or_nothing(timed.peak_bytes and timed.peak_bytes / 1e9, "{:.1f} GB"),
                _or_nothing(timed.error, "{:.2g}"),
            )
        )
    return _table(head, rows)


def _kernels(record: Record) -> list[str]:
    """Return where the time goes in each whole picture, kernel by kernel."""
    parts = []
    for each, timed in _with_times(record, "denoise"):
        if timed.gaps:
            parts += [f"#### {each.name}: kernels", _longest(timed.gaps)]
    return parts


def _longest(gaps: Gaps) -> str:
    total = sum(kernel.seconds for kernel in gaps.kernels)
    rows = [
        (
            _short(kernel.name),
            f"{kernel.launches}",
            f"{kernel.seconds:.4g}",
            f"{kernel.seconds / gaps.busy_seconds:.1%}",
        )
        for kernel in gaps.kernels[:NUM_KERNELS]
    ]
    told = f"{gaps.launches} launches, {gaps.busy_seconds:.4g} s busy of {gaps.span_seconds:.4g} s"
    return f"{told}; the longest {len(gaps.kernels)} take {total:.4g} s.\n\n" + _table(
        ("kernel", "launches", "seconds", "of busy"), rows
    )


def _short(name: str) -> str:
    return name.replace("|", "/")[:NAME_LENGTH]


def _savings(record: Record) -> str:
    rows = [
        (
            each.name,
            f"{timed.seconds.median:.4g}",
            timed.baseline_name,
            f"{timed.baseline.median:.4g}",
            _or_nothing(timed.baseline_over_work, "{:.3f}"),
            _or_nothing(timed.error, "{:.2g}"),
        )
        for each, timed in _with_times(record, "kept", "dense")
        if timed.baseline
    ]
    return _table(("case", "seconds", "other way", "its seconds", "ratio", "distance of results"), rows)


def _checks(record: Record) -> str:
    verdicts = {True: "passed", False: "**did not pass**", None: "did not run"}
    rows = [
        (
            check.name,
            verdicts[check.passed] + (f": {check.reason}" if check.reason else ""),
            _or_nothing(check.error, "{:.2g}"),
            f"{check.bound:g}",
        )
        for each in record.cases
        for check in each.checks
    ]
    return _table(("check", "verdict", "error", "bound"), rows)


def _unmeasured(record: Record) -> str:
    rows = [(each.name, each.status, each.reason) for each in record.cases if each.status != "measured"]
    return _table(("case", "status", "reason"), rows)


def _with_times(record: Record, *kinds: Kind) -> Iterable[tuple[Outcome, Timed]]:
    for each in record.cases:
        if each.case.kind in kinds and each.timed:
            yield each, each.timed


def _or_nothing(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _table(head: Cells, rows: Sequence[Cells]) -> str:
    """Return a table in Markdown; nothing when it has no rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def plot(record: Record, path: Path) -> None:
    """Draw the rate of every packed step below the ceiling, and the gaps of every whole picture."""
    figure = Figure(figsize=(WIDTH_INCHES, 8), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1))
    steps, pictures = list(_with_times(record, "step")), list(_with_times(record, "denoise"))
    _bars(upper, steps, lambda timed: timed.operations_per_second / 1e12)
    for precision, style in (("bfloat16", "--"), ("fp8", ":")):
        if rate := best_rate(record.cases, f"matmul {precision}"):
            upper.axhline(rate / 1e12, color="black", linestyle=style, label=f"matmul {precision}")
    upper.set(ylabel="TFLOP/s of one packed step", ylim=(0, None))
    _bars(lower, pictures, lambda timed: timed.gaps.share if timed.gaps else 0.0)
    lower.set(ylabel="gaps, share of the span", ylim=(0, None))
    if steps:
        upper.legend(fontsize="small")
    figure.suptitle(record.hardware.name)
    figure.savefig(path)


def _bars(axes: Axes, cases: Sequence[tuple[Outcome, Timed]], height: Callable[[Timed], float]) -> None:
    """Draw a group of bars for each workload, one bar for each mode and precision."""
    workloads = list(dict.fromkeys(_workload(each) for each, _ in cases))
    ways = sorted(
        {(each.case.precision, each.case.mode) for each, _ in cases},
        key=lambda way: (way[0], MODES.index(way[1])),
    )
    for index, way in enumerate(ways):
        of_way = [(each, timed) for each, timed in cases if (each.case.precision, each.case.mode) == way]
        places = [workloads.index(_workload(each)) + (index + 0.5) / (len(ways) + 1) for each, _ in of_way]
        axes.bar(
            places, [height(timed) for _, timed in of_way], 1 / (len(ways) + 1), label=f"{way[1]} {way[0]}"
        )
    axes.set_xticks([place + 0.4 for place in range(len(workloads))], workloads, rotation=30, ha="right")
    axes.tick_params(axis="x", labelsize="small")


def _workload(outcome: Outcome) -> str:
    case = outcome.case
    return f"{case.model} {case.task} {case.side}" + (f"x{case.batch}" if case.batch > 1 else "")


if __name__ == "__main__":
    typer.run(main)
