"""A report as tables, for people."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.doctor.report import Case, Extra, Machine, Measured, Model, Report, Speed

GB = 1e9
YES, NO = "[green]yes[/]", "[red]no[/]"
LEAST = "times are the least possible: all arithmetic at the rate at which the device multiplies"


def show(report: Report, console: Console) -> None:
    """Print a report."""

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    console.print(_machine(report.machine, report.speed))
    if missing := [each for each in report.machine.extras if not each.is_installed]:
        console.print(_extras(missing))
    if report.model:
        console.print(_weights(report.model))
        say(_contexts(report.model) + "\n")
    if report.cases:
        console.print(_cases(report.cases))
        say((LEAST if report.speed else "") + "\n")
    if report.measured:
        say(_measured(report.measured))
    for sentence in report.advice:
        say(f"[bold]advice:[/] {escape(sentence)}")
    for reason in report.reasons:
        say(f"[bold red]cannot serve:[/] {escape(reason)}")
    if report.can_serve:
        say("[bold green]this can be served[/]")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _machine(machine: Machine, speed: Speed | None) -> Table:
    rows = {
        "hardware": machine.hardware,
        "memory": f"{machine.memory_bytes / GB:.1f} GB, {machine.free_bytes / GB:.1f} GB free",
        "compute capability": machine.capability or "",
        "PyTorch": machine.torch + (f", CUDA {machine.cuda}" if machine.cuda else ""),
        "attention": ", ".join(f"{name} {state}" for name, state in machine.attention_backends.items()),
    }
    if speed:
        rows["multiplies"] = f"{speed.matmul_flops_per_second / 1e12:.3g} TFLOP/s"
        rows["copies"] = f"{speed.copy_bytes_per_second / GB:.3g} GB/s"
        if speed.host_copy_bytes_per_second:
            rows["copies from the host"] = f"{speed.host_copy_bytes_per_second / GB:.3g} GB/s"
    table = Table(title=f"device {machine.device}", title_justify="left", box=None, show_header=False)
    for name, text in rows.items():
        if text:
            table.add_row(name, escape(text))
    return table


def _extras(missing: Sequence[Extra]) -> Table:
    table = _table("not installed", "library", "install", "gives")
    for column in table.columns:
        column.justify, column.no_wrap = "left", False
    for each in missing:
        table.add_row(each.library, escape(f"hbridge[{each.extra}]"), each.gives)
    return table


def _weights(model: Model) -> Table:
    kind = model.dtype if model.quantization == "none" else f"{model.dtype}, {model.quantization}"
    table = _table(f"{model.model}: {model.checkpoint}", "part", "weights", kind)
    for part in model.parts:
        table.add_row(part.name, f"{part.weights:,}", _size(part.num_bytes))
    count = sum(part.weights for part in model.parts)
    table.add_row("all", f"{count:,}", _size(model.weights_bytes), style="bold")
    if model.device_bytes != model.weights_bytes:
        table.add_row("on the device", "", _size(model.device_bytes), style="bold")
    return table


def _contexts(model: Model) -> str:
    text = f"a context takes {model.token_bytes:,} bytes for each token of a prompt"
    image = f", an image of {model.image_tokens:,} tokens {_size(model.image_bytes)}"
    return text + (image if model.image_bytes else "")


def _cases(cases: Sequence[Case]) -> Table:
    counts = list(cases[0].fits)
    table = _table(
        "what fits beside the weights, by pictures at once",
        *("task", "size", f"{counts[0]} take{'s' if counts[0] == 1 else ''}"),
        *map(str, counts),
        *("at most", "step", "picture"),
    )
    for case in cases:
        seconds = case.expected_seconds.get("denoise")
        table.add_row(
            case.task,
            case.size,
            _size(case.needed_bytes[counts[0]]),
            *(YES if case.fits[count] else NO for count in counts),
            str(case.at_once),
            f"{case.flops['denoise'] / 1e12:.3g} TFLOP" if seconds is None else f"{seconds:.2g} s",
            "" if seconds is None else f"{case.picture_seconds:.2g} s",
        )
    return table


def _measured(measured: Measured) -> str:
    return (
        f"a real step ({measured.task} {measured.size}) took {measured.step_seconds:.3g} s, at the least "
        f"{measured.expected_seconds:.3g} s: {measured.matmul_share:.0%} of the matmul rate"
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GB:.2f} GB" if num_bytes >= GB / 10 else f"{num_bytes / 1e6:.2f} MB"
