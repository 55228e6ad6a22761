"""Mixed requests against a running service, at shares of what it can do: `hbridge bench load`.

First the capacity: as many requests a second as finish while a fixed number is always under way. Then open
loops: requests arrive when they arrive, at 0.5, 1 and 2 times that, whether the earlier ones are done or not.
Latencies count from when a request was due, so that a client that falls behind hides nothing.

Source of the last rule: Tene, "How NOT to measure latency" (coordinated omission).
"""

import asyncio
import base64
import io
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any, Literal

import httpx
from httpx_sse import aconnect_sse
from matplotlib.figure import Figure
from prometheus_client.parser import text_string_to_metric_families
from rich.live import Live
from rich.table import Table

from benchmarks.clock import quantile
from training.canvas import Canvas
from training.captions import CAPTIONS
from training.edits import EDITS
from training.evaluation import question_cases
from training.questions import SCORED_QUESTIONS
from training.record import write_record
from training.world import Scene, render

Arrivals = Literal["poisson", "burst"]
TASKS = ("generate", "edit", "understand")
QUANTILES = (0.5, 0.95, 0.99)
LATENCIES = ("queue", "first", "total")
DEVICE_POLL_SECONDS = 1.0
BURST = 8
FIRSTS = frozenset({"text_delta", "partial_image"})
"""Events that show something of the answer."""
AT_ONCE = 16
"""Requests under way in the closed loop that finds the capacity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What is asked: shares of the tasks, and the sizes of pictures to make, each as likely."""

    generate: float = 0.5
    edit: float = 0.25
    understand: float = 0.25
    sizes: tuple[str, ...] = ("64x64", "64x64", "96x64", "64x96")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One request and when it is due, in seconds after the start."""

    due: float
    task: str
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a request; seconds count from when it was due.

    Attributes:
        status: Of HTTP; 0 when no answer came.
        queue: As the server says.
        first: Until the first words of an answer, or the first look at a picture, were here.
    """

    task: str
    due: float
    total: float
    status: int
    queue: float | None = None
    first: float | None = None


def make_request(rng: Random, task: str, sizes: Sequence[str]) -> dict[str, object]:
    """Draw a request of the shapes world."""
    seed = rng.randrange(2**31)
    if task == "generate":
        caption = rng.choice(list(CAPTIONS.values()))(rng, Canvas())
        return {"prompt": caption.text, "size": rng.choice(sizes), "seed": seed}
    if task == "edit":
        edit = rng.choice(list(EDITS.values()))(rng, Canvas())
        return {"prompt": edit.text, "image": _encoded(edit.before), "seed": seed}
    ((scene, query),) = question_cases(rng, rng.choice(SCORED_QUESTIONS), 1, Canvas())
    return {"prompt": query.text, "image": _encoded(scene), "max_tokens": 12}


def _encoded(scene: Scene) -> str:
    file = io.BytesIO()
    render(scene).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def draw_shots(rng: Random, mix: Mix, *, rate: float, seconds: float, arrivals: Arrivals) -> list[Shot]:
    """Draw what arrives: one by one at random, or in bursts, `rate` a second on average."""
    at_once = BURST if arrivals == "burst" else 1
    count = max(1, round(rate * seconds))
    gaps = [rng.expovariate(rate / at_once) for _ in range(math.ceil(count / at_once))]
    starts = [0.0, *accumulate(gaps)][: len(gaps)]
    tasks = rng.choices(TASKS, [mix.generate, mix.edit, mix.understand], k=count)
    return [
        Shot(due=starts[i // at_once], task=task, body=make_request(rng, task, mix.sizes))
        for i, task in enumerate(tasks)
    ]


@dataclass(slots=True, kw_only=True)
class Run:
    """Requests on their way and what came of them; drawn as a table while it goes on."""

    title: str
    num_shots: int
    begun: float = field(default_factory=perf_counter)
    seconds: float = 0.0
    device_seconds: float = 0.0
    num_sent: int = 0
    outcomes: list[Outcome] = field(default_factory=list)

    def __rich__(self) -> Table:
        """Show where it stands."""
        quantiles = ", ".join(f"p{q * 100:.0f}" for q in QUANTILES)
        table = Table("task", "done", "refused", "failed", *(f"{name} {quantiles}, s" for name in LATENCIES))
        under_way = self.num_sent - len(self.outcomes)
        table.title = f"{self.title}: {self.num_sent}/{self.num_shots} sent, {under_way} under way"
        figures = self.report()
        table.caption = f"{figures['throughput']} done a second, device busy: {figures['device_busy']:.0%}"
        for task in TASKS:
            counts = Counter(_kind(each.status) for each in self.outcomes if each.task == task)
            kinds = (str(counts[kind]) for kind in ("done", "refused", "failed"))
            table.add_row(task, *kinds, *_cells(figures["latency"][task]))
        return table

    def report(self) -> dict[str, Any]:
        """Return its figures as plain data, as they are now."""
        counts = Counter(_kind(each.status) for each in self.outcomes)
        seconds = self.seconds or perf_counter() - self.begun
        return {
            "title": self.title,
            "seconds": round(seconds, 2),
            "requests": dict(counts),
            "throughput": round(counts["done"] / seconds, 3),
            "device_busy": round(self.device_seconds / seconds, 3),
            "latency": {task: self._latencies(task) for task in TASKS},
        }

    def _latencies(self, task: str) -> dict[str, dict[str, float]]:
        done = [each for each in self.outcomes if each.task == task and each.status == 200]
        columns = {
            "queue": [each.queue for each in done if each.queue is not None],
            "first": [each.first for each in done if each.first is not None],
            "total": [each.total for each in done],
        }
        return {
            name: {f"p{q * 100:.0f}": round(quantile(values, q), 4) for q in QUANTILES} if values else {}
            for name, values in columns.items()
        }


def _cells(latencies: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the quantiles of each latency, in words."""
    return [", ".join(f"{each:.2f}" for each in latencies[name].values()) or "none" for name in LATENCIES]


def _kind(status: int) -> str:
    return "done" if status == 200 else "refused" if status in (429, 503) else "failed"


async def shoot(client: httpx.AsyncClient, shot: Shot, run: Run) -> None:
    """Send one request, follow its stream and note what comes of it."""
    due = run.begun + shot.due
    run.num_sent += 1
    status, queue, first = 0, None, None
    looks = {} if shot.task == "understand" else {"partial_images": 1}
    body = {**shot.body, **looks, "stream": True}
    with suppress(httpx.HTTPError):
        async with aconnect_sse(client, "POST", f"/v1/{shot.task}", json=body) as source:
            if source.response.status_code != httpx.codes.OK:
                status = source.response.status_code
                await source.response.aread()
            else:
                async for event in source.aiter_sse():
                    if event.event in FIRSTS and first is None:
                        first = perf_counter() - due
                    if event.event == "completed":
                        status, queue = 200, event.json()["timings"]["queue"]
    total = perf_counter() - due
    run.outcomes.append(
        Outcome(task=shot.task, due=shot.due, total=total, status=status, queue=queue, first=first)
    )


async def closed_loop(client: httpx.AsyncClient, run: Run, shots: Sequence[Shot], at_once: int) -> None:
    """Keep a number of requests under way until all are done."""
    waiting = iter(shots)

    async def work() -> None:
        for shot in waiting:
            now = Shot(due=perf_counter() - run.begun, task=shot.task, body=shot.body)
            await shoot(client, now, run)

    await asyncio.gather(*(work() for _ in range(at_once)))


async def open_loop(client: httpx.AsyncClient, run: Run, shots: Sequence[Shot]) -> None:
    """Send every request when it is due, whatever became of the others."""
    async with asyncio.TaskGroup() as group:
        for shot in shots:
            await asyncio.sleep(max(0.0, run.begun + shot.due - perf_counter()))
            group.create_task(shoot(client, shot, run))


async def device_seconds(client: httpx.AsyncClient) -> float:
    """Return the time that the server's device has worked so far."""
    text = (await client.get("/metrics")).text
    names = {"hbridge_device_seconds_total", "hbridge_wasted_device_seconds_total"}
    return sum(
        sample.value
        for each in text_string_to_metric_families(text)
        for sample in each.samples
        if sample.name in names
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What is run against which service.

    Attributes:
        num_capacity: Requests in the closed loop that finds the capacity.
        seconds: For which requests arrive, in each open loop.
        shares: Of the capacity, one open loop each.
    """

    url: str
    mix: Mix
    num_capacity: int = 200
    seconds: float = 60.0
    shares: tuple[float, ...] = (0.5, 1.0, 2.0)
    arrivals: Arrivals = "poisson"
    seed: int = 0


async def measure(campaign: Campaign) -> tuple[dict[str, Any], list[Run]]:
    """Find the capacity, then run at shares of it; return the figures and the open runs."""
    rng, mix, seconds = Random(campaign.seed), campaign.mix, campaign.seconds
    runs: list[Run] = []
    reports: list[dict[str, Any]] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=campaign.url, timeout=600, limits=limits) as client:
        rate = campaign.num_capacity / seconds
        shots = draw_shots(rng, mix, rate=rate, seconds=seconds, arrivals="poisson")
        run = Run(title=f"capacity, {AT_ONCE} at once", num_shots=len(shots))
        capacity = await watched(client, run, partial(closed_loop, client, run, shots, AT_ONCE))
        for share in campaign.shares:
            rate = share * capacity["throughput"]
            shots = draw_shots(rng, mix, rate=rate, seconds=seconds, arrivals=campaign.arrivals)
            run = Run(title=f"{share:g} times capacity", num_shots=len(shots))
            report = await watched(client, run, partial(open_loop, client, run, shots))
            reports.append({"share": share, "rate": round(rate, 3), **report})
            runs.append(run)
    about = {"mix": asdict(mix), "arrivals": campaign.arrivals, "seed": campaign.seed}
    return {**about, "capacity": capacity, "runs": reports}, runs


async def watched(client: httpx.AsyncClient, run: Run, work: Callable[[], Awaitable[None]]) -> dict[str, Any]:
    """Show a run while it goes on; return its figures."""
    before = await device_seconds(client)

    async def look() -> None:
        while True:
            await asyncio.sleep(DEVICE_POLL_SECONDS)
            with suppress(httpx.HTTPError):
                run.device_seconds = await device_seconds(client) - before

    run.begun = perf_counter()
    with Live(run, refresh_per_second=4):
        looking = asyncio.create_task(look())
        await work()
        looking.cancel()
        run.seconds = perf_counter() - run.begun
        run.device_seconds = await device_seconds(client) - before
    return run.report()


def plot(runs: Sequence[Run], path: Path) -> None:
    """Draw the latency of every request by when it was due, and how latencies are distributed."""
    figure = Figure(figsize=(4 * len(runs), 6), layout="constrained")
    rows = figure.subplots(2, len(runs), squeeze=False)
    for column, run in enumerate(runs):
        for task in TASKS:
            done = [each for each in run.outcomes if each.task == task and each.status == 200]
            totals = sorted(each.total for each in done)
            rows[0][column].plot([each.due for each in done], [each.total for each in done], ".", label=task)
            rows[1][column].plot(totals, [(i + 1) / len(totals) for i in range(len(totals))], label=task)
        rows[0][column].set(title=run.title, xlabel="due, s", ylabel="latency, s")
        rows[1][column].set(xlabel="latency, s", ylabel="share of requests")
    rows[0][0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def page(report: Mapping[str, Any], picture: str) -> str:
    """Return the figures as a page to read."""
    capacity = report["capacity"]
    lines = [
        "# Load",
        "",
        f"Made by `{report['command']}` on {report['device']}, commit {report['commit']}.",
        "Seconds, from when a request was due; queue is what the server says of itself.",
        "*First* is until the first words of an answer, or the first look at a picture in the middle of its",
        "steps, were here.",
        "",
        f"Capacity: {capacity['throughput']} requests a second; device busy: {capacity['device_busy']:.0%}.",
        "",
        "| load | done/s | refused | device busy | task | queue p50, p95, p99 | first | total |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in report["runs"]:
        for task in TASKS:
            cells = _cells(run["latency"][task])
            lines.append(
                f"| {run['share']:g} × | {run['throughput']:.2f} | {run['requests'].get('refused', 0)} | "
                f"{run['device_busy']:.0%} | {task} | {' | '.join(cells)} |"
            )
    return "\n".join([*lines, "", f"![latencies]({picture})", ""])


def run_campaign(campaign: Campaign, output: Path, command: str) -> None:
    """Measure, and write the figures as JSON, a picture and a page."""
    figures, runs = asyncio.run(measure(campaign))
    picture = output.with_suffix(".png")
    plot(runs, picture)
    record = write_record(output, command, figures)
    output.with_suffix(".md").write_text(page(record, picture.name))
