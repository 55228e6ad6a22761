"""`hbridge doctor`: an examination with its report on standard output."""

from collections.abc import Sequence

import typer
from rich.console import Console

from service.doctor.examine import COUNTS, Ask, examine
from service.doctor.tables import show
from service.schemas.drawing import read_size
from service.settings import Settings


def run(
    settings: Settings,
    screen: Console,
    *,
    sizes: Sequence[str] | None,
    counts: Sequence[int] | None,
    memory_gb: float | None,
    measures: bool,
    as_json: bool,
) -> bool:
    """Examine, print, and say whether the model can be served.

    Args:
        screen: Where to say what is being done.

    Raises:
        UnsupportedSize: A size is none.
    """
    read = [size for size in (read_size(text, is_edit=False) for text in sizes or ()) if size]
    ask = Ask(
        sizes=read,
        counts=sorted(set(counts)) if counts else COUNTS,
        memory_bytes=None if memory_gb is None else int(memory_gb * 1e9),
        measures=measures,
    )
    with screen.status("examining") as status:
        report = examine(settings, ask, lambda what: status.update(f"examining {what}"))
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        show(report, Console())
    return report.can_serve
