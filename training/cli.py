"""The commands `hbridge train` and `hbridge eval`."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from model.checkpoint import load, weights_hash
from model.family import Size
from training.evaluation import Checkpoint, Score, Server, evaluate
from training.recipe import STAGES, Recipe
from training.record import invoked, write_record

screen = Console(stderr=True)


def train(
    recipe: Annotated[str, typer.Option(help="Folder of training/recipes.")] = "tiny",
    stage: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(STAGES)}; all in order when left out.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where states, logs and sheets go.")] = Path("runs"),
    threads: Annotated[int, typer.Option(help="Processor threads; 0 takes PyTorch's choice.")] = 0,
) -> None:
    """Train a shipped checkpoint; a run that was stopped goes on where it was."""
    if threads:
        torch.set_num_threads(threads)
    for name in STAGES if stage is None else (stage,):
        screen.print(f"[bold]{recipe}/{name}[/]")
        Recipe(recipe, runs).run(name)


def examine(
    model: Annotated[str, typer.Option(help="Checkpoint folder or short name.")] = "hbridge-tiny",
    server: Annotated[
        str | None, typer.Option(help="Ask this running service instead, e.g. http://127.0.0.1:8000.")
    ] = None,
    per_kind: Annotated[int, typer.Option(help="Cases of each kind.")] = 100,
    seen: Annotated[
        bool, typer.Option("--seen", help="Combinations that training showed, instead of held-out ones.")
    ] = False,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the pictures to make.")] = None,
    suite: Annotated[
        list[str] | None, typer.Option(help="generate, edit or understand; all when left out.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="JSON file; benchmarks/results/eval-MODEL.json when left out.")
    ] = None,
) -> None:
    """Score a checkpoint or a running service, strictly, with fixed seeds."""
    subject = Server(server) if server else Checkpoint(load(model))
    name = Path(model).name + ("-seen" if seen else "") + (f"-{size}" if size else "")
    path = output or Path("benchmarks/results") / f"eval-{name}.json"
    scores = evaluate(
        subject,
        per_kind=per_kind,
        held_out=not seen,
        size=None if size is None else Size(*map(int, size.split("x"))),
        sheet=path.with_suffix(".png"),
        suites=suite or ("generate", "edit", "understand"),
    )
    about = {
        "model": Path(model).name,
        "weights_hash": weights_hash(model),
        "held_out": not seen,
        "per_kind": per_kind,
    }
    write_record(path, invoked(), {**about, "scores": scores})
    screen.print(_table(scores), f"written to {path}", sep="\n")


def _table(scores: dict[str, object]) -> Table:
    table = Table("suite", "kind", "share", "95 % interval", "right/count")
    for suite, content in scores.items():
        assert isinstance(content, dict), "a suite's scores are a dictionary"
        table.add_row(suite, "overall", f"{content['overall']:.3f}", "", "", style="bold")
        for kind, report in content["kinds"].items():
            score = Score(right=report["right"], count=report["count"])
            low, high = score.interval
            table.add_row(
                "", kind, f"{score.share:.3f}", f"{low:.2f} to {high:.2f}", f"{score.right}/{score.count}"
            )
    return table
