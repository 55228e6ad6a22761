"""The commands of `hbridge bench`: load, engine, packing, ray, quality, claims, drill, gpu and report."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, cast, get_args

import httpx
import torch
import typer
from rich.console import Console

from benchmarks import claims as claiming
from benchmarks import drill as drilling
from benchmarks import figure as figures
from benchmarks import quality as qualities
from benchmarks.engine import Counts, measure_engine
from benchmarks.gpu import main as gpu
from benchmarks.load import Arrivals, Campaign, Mix, run_campaign
from benchmarks.local_server import LocalServer
from benchmarks.packing import measure_packing
from benchmarks.report import main as report
from benchmarks.routing import Counts as RayCounts
from benchmarks.routing import measure_ray
from benchmarks.sizes import OMNIGEN2_MEDIUM
from model.checkpoint import load as load_family
from model.checkpoint import weights_hash
from service.engine.engine import NUM_THREADS
from service.terminal import settings_with, users_faults
from training.record import invoked, write_record

RESULTS = Path("benchmarks/results")
MODEL = "hbridge-tiny"
SHARES = (0.5, 1.0, 2.0)
MAX_PAUSE_SECONDS = 1.0

app = typer.Typer(help="Measure the service on this machine.", no_args_is_help=True)
app.command("gpu")(gpu)
app.command("report")(report)
screen = Console(stderr=True)


@app.command()
def load(
    *,
    url: Annotated[
        str | None, typer.Option(help="Of a running service; one of its own is started when left out.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="For which requests arrive, at each share.")] = 60.0,
    shares: Annotated[
        list[float] | None,
        typer.Option(
            "--shares", min=0.01, help="Of the capacity; 0.5, 1 and 2 when left out, may be repeated."
        ),
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests that find the capacity.")] = 200,
    arrivals: Annotated[str, typer.Option(help=" or ".join(get_args(Arrivals)))] = "poisson",
    seed: Annotated[int, typer.Option(help="Of what is asked, and when.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help=f"JSON file; {RESULTS}/load-{MODEL}-ARRIVALS.json when left out.")
    ] = None,
) -> None:
    """Send mixed requests at shares of what the service can do, and draw how long they take."""
    if arrivals not in get_args(Arrivals):
        choices = ", ".join(get_args(Arrivals))
        raise typer.BadParameter(f"{arrivals!r} must be one of {choices}", param_hint="--arrivals")
    path = output or RESULTS / f"load-{MODEL}-{arrivals}.json"
    with users_faults(), _served(url) as address:
        campaign = Campaign(
            url=address,
            mix=Mix(),
            num_capacity=requests,
            seconds=seconds,
            shares=tuple(shares or SHARES),
            arrivals=cast(Arrivals, arrivals),
            seed=seed,
        )
        run_campaign(campaign, path, invoked())
    _say_where(path)


@contextmanager
def _served(url: str | None) -> Iterator[str]:
    if url is None:
        screen.print("starting a server")
        with LocalServer() as server:
            yield server.url
        return
    try:
        yield url
    except httpx.HTTPError as error:
        raise typer.BadParameter(f"{url}: {error}", param_hint="--url") from error


@app.command()
def engine(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="A few of each: to see that it works.")] = False,
    output: Annotated[Path, typer.Option(help="JSON file.")] = RESULTS / "engine-cpu.json",
) -> None:
    """Compare the engine with the bare pipeline, in one run."""
    counts = Counts(**dict.fromkeys(Counts.__annotations__, 2)) if quick else Counts()
    settings = settings_with(model=MODEL, device="cpu", dtype="float32")
    measured: list[figures.Figure] = []
    with users_faults(), screen.status("loading") as status:
        for each in measure_engine(settings, counts):
            measured.append(each)
            status.update(f"{each.title}: {each.value:.4g}")
    about = {"model": MODEL, "weights_hash": weights_hash(MODEL), "dtype": settings.dtype}
    write_record(output, invoked(), {**about, "figures": figures.report(measured)})
    screen.print(figures.table(measured))
    _say_where(output)


@app.command()
def packing(
    *,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of which the median counts.")] = 5,
    layers: Annotated[int, typer.Option(min=1, help="Of the network; its refiners stay as they are.")] = 16,
    output: Annotated[Path, typer.Option(help="JSON file.")] = RESULTS / "packing.json",
) -> None:
    """Compare OmniGen2's packed steps with the release's shape of work, on the same random weights."""
    config = {**OMNIGEN2_MEDIUM, "transformer": OMNIGEN2_MEDIUM["transformer"] | {"num_layers": layers}}
    torch.set_num_threads(NUM_THREADS)
    measured: list[figures.Figure] = []
    with screen.status("drawing weights") as status:
        for each in measure_packing(config, repeats=repeats):
            measured.append(each)
            status.update(f"{each.title}: {each.value:.4g}")
    write_record(output, invoked(), {"config": config, "figures": figures.report(measured)})
    screen.print(figures.table(measured))
    _say_where(output)


@app.command()
def ray(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="A few of each: to see that it works.")] = False,
    seed: Annotated[int, typer.Option(help="Of what is asked, and in which order.")] = 0,
    output: Annotated[Path, typer.Option(help="JSON file.")] = RESULTS / "ray.json",
) -> None:
    """Compare two engines on Ray Serve with one process, and routing by affinity with routing at random."""
    counts = RayCounts(turns=1, requests=8, images=4, edits=2) if quick else RayCounts()
    measured: list[figures.Figure] = []
    with users_faults(), screen.status("starting servers") as status:
        for each in measure_ray(counts, seed=seed):
            measured.append(each)
            status.update(f"{each.title}: {each.value:.4g}")
    about = {"model": MODEL, "weights_hash": weights_hash(MODEL), "ray": version("ray")}
    write_record(output, invoked(), {**about, "figures": figures.report(measured)})
    screen.print(figures.table(measured))
    _say_where(output)


@app.command()
def quality(
    *,
    model: Annotated[str, typer.Option(help="Checkpoint folder or short name.")] = MODEL,
    per_kind: Annotated[int, typer.Option(min=1, help="Cases of each kind, at each choice.")] = 32,
    steps: Annotated[
        list[int] | None, typer.Option(min=1, help="Numbers of steps; several when repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help=f"JSON file; {RESULTS}/quality-MODEL.json when left out.")
    ] = None,
) -> None:
    """Score the model against steps, guidance and size, strictly."""
    path = output or RESULTS / f"quality-{Path(model).name}.json"
    with users_faults():
        family = load_family(model)
        about = {"model": Path(model).name, "weights_hash": weights_hash(model), "per_kind": per_kind}
    cells: list[qualities.Cell] = []
    for cell in qualities.measure_quality(family, per_kind=per_kind, steps=steps or qualities.STEPS):
        cells.append(cell)
        screen.print(cell, soft_wrap=True)
    write_record(path, invoked(), {**about, "cells": qualities.report(cells)})
    path.with_suffix(".md").write_text(qualities.page(cells, path.stem))
    qualities.plot(cells, path.with_suffix(".png"))
    _say_where(path)


@app.command()
def claims(
    *,
    plan: Annotated[Path, typer.Option(help="What every arm changes.")] = claiming.CLAIMS,
    arm: Annotated[list[str] | None, typer.Option(help="All when left out; several when repeated.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="All when left out; several when repeated.")] = None,
    per_kind: Annotated[int, typer.Option(min=1, help="Pictures of each kind that are scored.")] = 32,
    trained: Annotated[Path, typer.Option(help="Runs of the recipe.")] = Path("runs"),
    runs: Annotated[
        Path, typer.Option(help="Where trials go; those that have ended are not run again.")
    ] = Path("runs/claims"),
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 1,
    output: Annotated[Path, typer.Option(help="JSON file, written once all trials have ended.")] = RESULTS
    / "claims.json",
) -> None:
    """Try what the paper claims in small: train every arm on every seed, and compare."""
    torch.set_num_threads(threads)
    with users_faults():
        read = claiming.Plan.read(plan, trained, runs)
    chosen = [t for t in read.trials if (not arm or t.arm in arm) and (not seed or t.seed in seed)]
    for trial in chosen:
        screen.print(f"[bold]{trial.arm}[/], seed {trial.seed}")
        with users_faults():
            trial.run(per_kind)
    if len(chosen) < len(read.trials):
        return
    results = [trial.run(per_kind) for trial in read.trials]
    write_record(output, invoked(), {"per_kind": per_kind, "results": results})
    output.with_suffix(".md").write_text(claiming.page(results, read.comparisons, output.stem))
    claiming.plot(results, output.with_suffix(".png"))
    _say_where(output)


@app.command()
def drill(
    *,
    kills: Annotated[int, typer.Option(min=1, help="Times that the engine's process is killed.")] = 20,
    seed: Annotated[int, typer.Option(help="Of what is asked, and when it is killed.")] = 0,
    output: Annotated[Path, typer.Option(help="JSON file.")] = RESULTS / "drill.json",
) -> None:
    """Kill the engine's process under load, again and again, and see what the clients get."""
    settings = {
        "HBRIDGE_MAX_RESTART_PAUSE_SECONDS": str(MAX_PAUSE_SECONDS),
        "HBRIDGE_MAX_JOB_ATTEMPTS": str(drilling.MAX_JOB_ATTEMPTS),
    }
    with users_faults(), LocalServer(**settings) as server:
        seen = asyncio.run(drilling.run_drill(server, num_kills=kills, seed=seed))
    about = {"model": MODEL, "clients": drilling.NUM_CLIENTS, "max_pause_seconds": MAX_PAUSE_SECONDS}
    write_record(output, invoked(), {**about, **seen})
    drilling.plot(seen["seconds_to_ready"], seen["rss_mib"], output.with_suffix(".png"))
    screen.print({name: seen[name] for name in ("clean", "checks", "requests", "worst_seconds_to_ready")})
    _say_where(output)
    if not seen["clean"]:
        raise typer.Exit(1)


def _say_where(path: Path) -> None:
    screen.print(f"written to {path}", soft_wrap=True)
