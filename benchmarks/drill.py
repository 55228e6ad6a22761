"""The engine's process is killed again and again, under load: does the service stay whole?

Run by `hbridge bench drill`; writes benchmarks/results/drill.json and a picture. Clients keep sending mixed
requests over HTTP, and each may end in an answer or in a clean refusal, nothing else. Others send jobs, which
a new engine runs again: each must succeed, however often it was cut off.
"""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import linear_regression
from time import perf_counter
from typing import Any, Literal

import httpx
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.load import TASKS, Mix, make_request
from benchmarks.local_server import LocalServer

NUM_CLIENTS = 6
NUM_JOB_CLIENTS = 2
MAX_JOB_ATTEMPTS = 100
"""So that a job is never given up for having met many kills."""
JOB = "job"
POLL_SECONDS = 0.05
REFUSED_PAUSE_SECONDS = 0.2
"""Clients come back sooner than Retry-After asks, so that there is load while the engine is away."""
LOADED_SECONDS = (0.5, 2.0)
"""Between being ready and the next kill."""
SETTLE_SECONDS = 0.5
RECOVERED_WITHIN_SECONDS = 120
ENDED = ("succeeded", "failed", "cancelled")
NUM_SETTLING = 3
"""Kills after which memory should have stopped growing."""
MAX_GROWTH_BYTES = 256 * 2**10
"""Of memory, by kill, that is taken for noise."""

Outcome = Literal["done", "restarting", "broken"]
screen = Console(stderr=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A request that has ended, and how; times are of one clock."""

    task: str
    begun: float
    ended: float
    outcome: Outcome
    words: str = ""


@dataclass(slots=True, kw_only=True)
class Kill:
    """One kill and what followed.

    Attributes:
        unready_seconds: Until /readyz said so.
        ready_seconds: Until it said that a new engine is ready. 0 is never, for both.
        rss_bytes: Of the process that listens, when it was ready again and had settled.
    """

    at: float
    unready_seconds: float = 0.0
    ready_seconds: float = 0.0
    rss_bytes: int = 0
    num_fds: int = 0


@dataclass(slots=True, kw_only=True)
class Drill:
    """What was seen in all; clients and pollers write it down while kills go on.

    Attributes:
        not_alive: What /livez said whenever it was not 200.
        longest_poll_seconds: That /livez took to answer.
    """

    rss_bytes_before: int = 0
    num_fds_before: int = 0
    kills: list[Kill] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    not_alive: list[str] = field(default_factory=list)
    longest_poll_seconds: float = 0.0
    is_over: bool = False

    @property
    def growth_bytes(self) -> float:
        """Memory by kill, fitted to a line after the first few."""
        rss = [kill.rss_bytes for kill in self.kills][min(NUM_SETTLING, len(self.kills) // 2) :]
        return linear_regression(range(len(rss)), rss).slope if len(rss) > 1 else 0.0

    def report(self, *, is_alive: bool) -> dict[str, Any]:
        """Return what was seen as plain data."""
        broken = [each for each in self.ended if each.outcome == "broken"]
        jobs = [each for each in self.ended if each.task == JOB]
        # What is open goes up and down with the clients' requests.
        most_fds = max(kill.num_fds for kill in self.kills)
        checks = {
            "server_is_alive": is_alive,
            "always_live": not self.not_alive,
            "always_ready_again": all(kill.ready_seconds for kill in self.kills),
            "unready_after_every_kill": all(kill.unready_seconds for kill in self.kills),
            "answered_or_refused_cleanly": all(each.task == JOB for each in broken),
            "jobs_succeed": all(each.outcome == "done" for each in jobs),
            "memory_does_not_grow": self.growth_bytes <= MAX_GROWTH_BYTES,
            "files_do_not_grow": most_fds <= self.num_fds_before + NUM_CLIENTS + NUM_JOB_CLIENTS,
        }
        return {
            "kills": len(self.kills),
            "clean": all(checks.values()),
            "checks": checks,
            "worst_seconds_to_ready": round(max(kill.ready_seconds for kill in self.kills), 2),
            "requests": dict(Counter(each.outcome for each in self.ended)),
            "requests_by_task": {
                task: dict(Counter(each.outcome for each in self.ended if each.task == task))
                for task in (*TASKS, JOB)
            },
            "jobs_under_way_at_kills": sum(map(self._met, jobs)),
            "under_way_at_kills": dict(Counter(each.outcome for each in self.ended if self._met(each))),
            "broken": [f"{each.task}: {each.words}" for each in broken][:20],
            "not_alive": self.not_alive[:20],
            "longest_poll_of_livez_seconds": round(self.longest_poll_seconds, 3),
            "growth_bytes_by_kill": round(self.growth_bytes),
            "rss_mib_before": _mib(self.rss_bytes_before),
            "rss_mib": [_mib(kill.rss_bytes) for kill in self.kills],
            "fds_before": self.num_fds_before,
            "fds": [kill.num_fds for kill in self.kills],
            "seconds_to_unready": [round(kill.unready_seconds, 3) for kill in self.kills],
            "seconds_to_ready": [round(kill.ready_seconds, 2) for kill in self.kills],
        }

    def _met(self, request: Ended) -> bool:
        return any(request.begun <= kill.at < request.ended for kill in self.kills)


def _mib(num_bytes: int) -> float:
    return round(num_bytes / 2**20, 1)


def classify(response: httpx.Response) -> tuple[Outcome, str]:
    """Say whether an answer is one that a client may get here; the words are for those that are not."""
    if response.status_code == 200:
        return "done", ""
    try:
        code = response.json()["error"]["code"]
    except (ValueError, LookupError, TypeError):
        code = ""
    if (response.status_code, code) == (503, "engine_restarting") and "Retry-After" in response.headers:
        return "restarting", ""
    return "broken", f"{response.status_code} {response.text[:200]}"


async def send(client: httpx.AsyncClient, drill: Drill, rng: Random) -> None:
    """Send one request after another, of any task, until the drill is over."""
    mix = Mix()
    while not drill.is_over:
        (task,) = rng.choices(TASKS, [mix.generate, mix.edit, mix.understand])
        begun = perf_counter()
        try:
            outcome, words = classify(
                await client.post(f"/v1/{task}", json=make_request(rng, task, mix.sizes))
            )
        except httpx.HTTPError as error:
            outcome, words = "broken", repr(error)
        drill.ended.append(Ended(task=task, begun=begun, ended=perf_counter(), outcome=outcome, words=words))
        if outcome != "done":
            await asyncio.sleep(REFUSED_PAUSE_SECONDS)


async def send_jobs(client: httpx.AsyncClient, drill: Drill, rng: Random) -> None:
    """Send one job after another, and see each to its end, also when the drill is over."""
    mix = Mix()
    while not drill.is_over:
        task = rng.choice(TASKS)
        begun = perf_counter()
        try:
            words = await finish_job(client, task, make_request(rng, task, mix.sizes))
        except httpx.HTTPError as error:
            words = repr(error)
        outcome: Outcome = "broken" if words else "done"
        drill.ended.append(Ended(task=JOB, begun=begun, ended=perf_counter(), outcome=outcome, words=words))


async def finish_job(client: httpx.AsyncClient, task: str, request: dict[str, Any]) -> str:
    """Send a job and wait for its end; return what went wrong, if anything did."""
    response = await client.post("/v1/jobs", json={"task": task, "request": request})
    if response.status_code != httpx.codes.ACCEPTED:
        return f"{response.status_code} {response.text[:200]}"
    deadline = perf_counter() + RECOVERED_WITHIN_SECONDS
    while perf_counter() < deadline:
        job = (await client.get(response.headers["location"])).json()
        if job["state"] in ENDED:
            return "" if job["state"] == "succeeded" else f"{job['state']}: {job['error']}"
        await asyncio.sleep(POLL_SECONDS)
    return f"still {job['state']}"


async def watch_life(client: httpx.AsyncClient, drill: Drill) -> None:
    """Ask all the time whether the server is alive."""
    while not drill.is_over:
        begun = perf_counter()
        try:
            response = await client.get("/livez")
            if response.status_code != 200:
                drill.not_alive.append(f"{response.status_code}")
        except httpx.HTTPError as error:
            drill.not_alive.append(repr(error))
        drill.longest_poll_seconds = max(drill.longest_poll_seconds, perf_counter() - begun)
        await asyncio.sleep(POLL_SECONDS)


async def wait_for(client: httpx.AsyncClient, status: int) -> bool:
    """Ask for readiness until it has this status; False when that takes too long."""
    deadline = perf_counter() + RECOVERED_WITHIN_SECONDS
    while perf_counter() < deadline:
        with suppress(httpx.HTTPError):
            if (await client.get("/readyz")).status_code == status:
                return True
        await asyncio.sleep(POLL_SECONDS)
    return False


async def kill(server: LocalServer, client: httpx.AsyncClient) -> Kill:
    """Kill the engine's process and wait until there is another that is ready."""
    pid = server.engine_pid
    assert pid is not None, "who is ready has an engine"
    os.kill(pid, signal.SIGKILL)
    seen = Kill(at=perf_counter())
    if await wait_for(client, 503):
        seen.unready_seconds = perf_counter() - seen.at
    if await wait_for(client, 200) and server.engine_pid not in (None, pid):
        seen.ready_seconds = perf_counter() - seen.at
    await asyncio.sleep(SETTLE_SECONDS)
    if server.is_alive:
        seen.rss_bytes, seen.num_fds = server.rss_bytes, server.num_fds
    return seen


async def run_drill(
    server: LocalServer, *, num_kills: int, seed: int, tell: Callable[[str], None] = screen.print
) -> dict[str, Any]:
    """Kill so many times under load; return what was seen."""
    rng, drill = Random(seed), Drill()
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=RECOVERED_WITHIN_SECONDS, limits=limits) as client,
        asyncio.TaskGroup() as group,
    ):
        for index in range(NUM_CLIENTS):
            group.create_task(send(client, drill, Random(seed + 1 + index)))
        for index in range(NUM_JOB_CLIENTS):
            group.create_task(send_jobs(client, drill, Random(seed - 1 - index)))
        group.create_task(watch_life(client, drill))
        await asyncio.sleep(max(LOADED_SECONDS))
        drill.rss_bytes_before, drill.num_fds_before = server.rss_bytes, server.num_fds
        for index in range(num_kills):
            await asyncio.sleep(rng.uniform(*LOADED_SECONDS))
            drill.kills.append(await kill(server, client))
            tell(f"kill {index + 1}: ready again after {drill.kills[-1].ready_seconds:.1f} s")
            if not drill.kills[-1].ready_seconds:
                break
        drill.is_over = True
    return drill.report(is_alive=server.is_alive)


def plot(seconds_to_ready: Sequence[float], rss_mib: Sequence[float], path: Path) -> None:
    """Draw memory and the time to ready by kill."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    numbers = range(1, len(rss_mib) + 1)
    upper.bar(numbers, seconds_to_ready)
    upper.set(ylabel="seconds to ready", ylim=(0, None))
    lower.plot(numbers, rss_mib, "o-")
    lower.set(xlabel="kill", ylabel="memory of the server, MiB", ylim=(0, None))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
