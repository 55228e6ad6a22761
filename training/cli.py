"""The commands `hbridge train` and `hbridge eval`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, cast

import httpx
import torch
import typer
from rich.console import Console
from rich.table import Table

from model.checkpoint import load, weights_hash
from model.hbridge.family import HBridge
from model.quantize import SCHEMES, Scheme, check_scheme, quantize
from service.schemas.drawing import read_size
from service.terminal import users_faults
from training.evaluation import SUITES, Checkpoint, Score, Server, Subject, evaluate
from training.full import Full
from training.probe import probe
from training.recipe import Recipe
from training.record import invoked, write_record
from training.runs import Runs, recipe_folder
from training.team import leave
from training.walks import right_from

screen = Console(stderr=True)


def train(
    recipe: Annotated[
        str, typer.Option(help="Folder of training/recipes, or a path to a folder of your own.")
    ] = "tiny",
    stage: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(Recipe.STAGES)} (full: {', '.join(Full.STAGES)}; all in order when left "
            f"out), or {', '.join(Recipe.ASIDE)}."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where states, logs and sheets go.")] = Path("runs"),
    threads: Annotated[int, typer.Option(help="Processor threads; 0 takes PyTorch's choice.")] = 0,
) -> None:
    """Train a checkpoint; a run that was stopped goes on where it was."""
    with users_faults():
        is_small = (recipe_folder(recipe) / "vlm.yaml").is_file()
    chosen: Runs = (Recipe if is_small else Full)(recipe, runs)
    stages = chosen.STAGES if stage is None else (stage,)
    _check("--stage", stages, (*chosen.STAGES, *chosen.ASIDE))
    if threads:
        torch.set_num_threads(threads)
    try:
        for name in stages:
            screen.print(f"[bold]{recipe}/{name}[/]")
            with users_faults():
                chosen.run(name)
    finally:
        leave()


def examine(
    *,
    model: Annotated[str, typer.Option(help="Checkpoint folder or short name.")] = "hbridge-tiny",
    server: Annotated[
        str | None, typer.Option(help="Ask this running service instead, e.g. http://127.0.0.1:8000.")
    ] = None,
    per_kind: Annotated[int, typer.Option(min=1, help="Cases of each kind.")] = 100,
    seen: Annotated[
        bool, typer.Option("--seen", help="Combinations that training showed, instead of held-out ones.")
    ] = False,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the pictures to make.")] = None,
    suite: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(SUITES)}; all when left out, several when repeated.")
    ] = None,
    with_probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Also measure how the prompt reaches the pictures, and where on their way they are lost.",
        ),
    ] = False,
    quantization: Annotated[str, typer.Option(help=f"{', '.join(SCHEMES)}.")] = "none",
    output: Annotated[
        Path | None, typer.Option(help="JSON file; benchmarks/results/eval-MODEL.json when left out.")
    ] = None,
) -> None:
    """Score a checkpoint or a running service, strictly, with fixed seeds."""
    suites = tuple(suite or SUITES)
    _check("--suite", suites, SUITES)
    name = "server" if server else Path(model).name
    suffix = ("-seen" if seen else "") + (f"-{size}" if size else "")
    suffix += "" if quantization == "none" else f"-{quantization}"
    path = output or Path("benchmarks/results") / f"eval-{name}{suffix}.json"
    with users_faults():
        pixels = read_size(size, is_edit=False) if size else None
        about: dict[str, object] = (
            {"server": server}
            if server
            else {"model": name, "weights_hash": weights_hash(model), "quantization": quantization}
        )
        with _subject(model, server, quantization) as subject:
            scores = evaluate(
                subject,
                per_kind=per_kind,
                held_out=not seen,
                size=pixels,
                sheet=path.with_suffix(".png"),
                suites=suites,
            )
            if with_probe and isinstance(subject, Checkpoint) and isinstance(subject.family, HBridge):
                about["probe"] = probe(subject.family)
                about["walks"] = right_from(subject.family)
    content = {**about, "held_out": not seen, "per_kind": per_kind, "scores": scores}
    write_record(path, invoked(), content)
    screen.print(_table(scores), f"written to {path}", sep="\n")


def _check(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    for each in given:
        if each not in known:
            raise typer.BadParameter(f"{each!r} must be one of {', '.join(known)}", param_hint=option)


@contextmanager
def _subject(model: str, server: str | None, quantization: str) -> Iterator[Subject]:
    if server is None:
        check_scheme(quantization, "cpu", torch.float32)
        family = load(model)
        quantize(family.module, cast(Scheme, quantization))
        yield Checkpoint(family)
        return
    with httpx.Client(base_url=server, timeout=300) as client:
        try:
            yield Server(client)
        except httpx.HTTPError as error:
            raise typer.BadParameter(f"{server}: {error}", param_hint="--server") from error


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
