"""Real replicas with a toy each, in this process; the cluster is what the test does with them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.drawing import Drawing
from model.errors import PromptTooLong
from model.pipeline import draw
from service.engine import pool as pools
from service.engine.affinity import Errand
from service.engine.client import Client, State
from service.engine.engine import EngineConfig
from service.engine.errors import (
    DeadlineExceeded,
    EngineDraining,
    EngineNotReady,
    EngineRestarting,
    JobFailed,
)
from service.engine.inline import InlineEngine
from service.engine.job import Event, Finished, Job, LoadedModel
from service.engine.observer import Observer
from service.engine.pool import Pool, ReplicaLost
from service.engine.replica import Beat, Message, Replica
from tests.service.engine.toy import Toy, load

WORK = Drawing(prompt="a", seed=1)


class Cluster:
    """Replicas that jobs go to in turn; one can be lost, with all streams of it."""

    def __init__(self, **loads: Callable[[], LoadedModel]) -> None:
        self.errands: list[Errand] = []
        self.jobs: list[Job] = []
        self.replicas = {
            name: Replica(name, InlineEngine(load, EngineConfig(num_threads=1)))
            for name, load in loads.items()
        }
        self._lost = {name: asyncio.Event() for name in loads}
        self._all = list(self.replicas.values())

    async def start(self) -> None:
        await asyncio.gather(*(replica.start() for replica in self._all))

    async def stop(self) -> None:
        await asyncio.gather(*(replica.stop() for replica in self._all))

    def lose(self, name: str) -> None:
        del self.replicas[name]
        self._lost[name].set()

    async def run(self, job: Job, errand: Errand) -> AsyncGenerator[Message, None]:
        self.errands.append(errand)
        self.jobs.append(job)
        while not self.replicas:
            await asyncio.sleep(0.01)
        name = list(self.replicas)[(len(self.errands) - 1) % len(self.replicas)]
        lost = asyncio.create_task(self._lost[name].wait())
        async with aclosing(self.replicas[name].run(job, errand)) as messages:
            while True:
                coming = asyncio.ensure_future(anext(messages, None))
                try:
                    await asyncio.wait([coming, lost], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not coming.done():
                        coming.cancel()
                        await asyncio.gather(coming, return_exceptions=True)
                if lost.done():
                    raise ReplicaLost("lost")
                if (message := coming.result()) is None:
                    lost.cancel()
                    return
                yield message

    async def beats(self) -> Sequence[Beat]:
        return [replica.beat() for replica in self.replicas.values()]


class Counted(Observer):
    def __init__(self) -> None:
        self.num_steps = self.num_restarts = self.num_finished = 0

    def stepped(self, *values: Any) -> None:
        self.num_steps += 1

    def restarted(self) -> None:
        self.num_restarts += 1

    def finished(self, *values: Any) -> None:
        self.num_finished += 1


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(pools, "TAKEN_SECONDS", 0.5)


def others() -> LoadedModel:
    """Load the toy with other weights."""
    model = load()
    return replace(model, card=replace(model.card, weights_hash="others"))


def on_cluster(work: Callable[[Cluster, Client, Counted], Awaitable[Any]], **loads: Any) -> Any:
    """Run something with a client of a cluster."""

    async def run() -> Any:
        cluster, counted = Cluster(**loads or {"a": load, "b": load}), Counted()
        await cluster.start()
        client = Client(Pool(cluster, max_repeats=1), model_id="toy")
        client.watch(counted)
        await client.start()
        try:
            await client.ready()
            return await work(cluster, client, counted)
        finally:
            await client.stop()
            await cluster.stop()

    return asyncio.run(run())


async def events_of(client: Client, work: Drawing = WORK, **fields: Any) -> list[Event]:
    async with aclosing(client.submit(Job(**({"id": f"{id(fields)}", "work": work} | fields)))) as events:
        return [event async for event in events]


async def until(seen: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not seen():
            await asyncio.sleep(0.005)


def held(folder: Path, **fields: Any) -> Drawing:
    return replace(WORK, prompt=f"hold {folder}/go", **fields)


async def till_held(folder: Path) -> None:
    await until((folder / "go.held").exists)


def release(folder: Path) -> None:
    (folder / "go").touch()


def test_a_job_gets_from_a_pool_what_the_pipeline_draws() -> None:
    async def work(cluster: Cluster, client: Client, counted: Counted) -> list[Event]:
        assert client.card.weights_hash == load().card.weights_hash
        return await events_of(client)

    last = on_cluster(work)[-1]
    assert isinstance(last, Finished)
    assert last.result.images == draw(Toy(), WORK).images  # type: ignore[arg-type, union-attr]


def test_a_refusal_comes_as_it_was_said() -> None:
    async def work(cluster: Cluster, client: Client, counted: Counted) -> None:
        with pytest.raises(PromptTooLong):
            await events_of(client, replace(WORK, prompt="refuse"))
        with pytest.raises(JobFailed):
            await events_of(client, replace(WORK, prompt="fault"), is_repeatable=True)
        assert client.is_idle

    on_cluster(work)


def test_a_router_is_told_what_a_job_is_expected_to_take() -> None:
    async def work(cluster: Cluster, client: Client, counted: Counted) -> None:
        await events_of(client)
        await events_of(client)
        await events_of(client, replace(WORK, n=2))
        first, one, two = (errand.seconds for errand in cluster.errands)
        assert first == 0
        assert two == pytest.approx(2 * one, rel=0.5)

    on_cluster(work)


def test_a_lost_replica_is_a_refusal_for_who_waits_and_another_try_for_a_job(tmp_path: Path) -> None:
    async def work(cluster: Cluster, client: Client, counted: Counted) -> None:
        tasks = [
            asyncio.create_task(events_of(client, held(tmp_path), id=name, is_repeatable=name in "cd"))
            for name in "abcd"
        ]
        await till_held(tmp_path)
        await until(lambda: len(cluster.errands) == 4)
        cluster.lose("a")
        release(tmp_path)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(end, EngineRestarting) for end in ends] == [True, False, False, False]
        assert all(isinstance(end[-1], Finished) for end in ends[1:])  # type: ignore[index]
        assert [job.id for job in cluster.jobs] == ["a", "b", "c", "d", "c.1"]
        assert (counted.num_restarts, counted.num_finished) == (1, 3)
        assert client.state is State.READY
        assert client.is_idle

    on_cluster(work)


def test_a_job_under_which_every_replica_is_lost_is_given_up(tmp_path: Path) -> None:
    async def work(cluster: Cluster, client: Client, counted: Counted) -> None:
        task = asyncio.create_task(events_of(client, held(tmp_path), is_repeatable=True))
        for name in "ab":
            await till_held(tmp_path)
            (tmp_path / "go.held").unlink()
            cluster.lose(name)
        with pytest.raises(EngineRestarting):
            await task
        release(tmp_path)
        assert len(cluster.errands) == 2

    on_cluster(work)


def test_without_replicas_jobs_are_refused_and_those_that_may_wait_do() -> None:
    async def work(cluster: Cluster, client: Client, counted: Counted) -> None:
        replica = cluster.replicas["a"]
        del cluster.replicas["a"]
        task = asyncio.create_task(events_of(client, is_repeatable=True))
        await until(lambda: client.state is State.RESTARTING)
        with pytest.raises(EngineRestarting):
            await events_of(client)
        await asyncio.sleep(0.6)
        cluster.replicas["a"] = replica
        assert isinstance((await task)[-1], Finished)
        await until(lambda: client.state is State.READY)

    on_cluster(work, a=load)


def test_who_is_taken_by_nobody_is_told_in_time() -> None:
    async def work(cluster: Cluster, client: Client, counted: Counted) -> None:
        cluster.replicas.clear()
        with pytest.raises(EngineRestarting):
            await events_of(client)

    on_cluster(work, a=load)


def test_a_deadline_counts_from_the_submission_wherever_the_time_goes() -> None:
    async def work(cluster: Cluster, client: Client, counted: Counted) -> None:
        cluster.replicas.clear()
        with pytest.raises(DeadlineExceeded):
            await events_of(client, deadline_seconds=0.1)
        assert cluster.jobs[0].deadline_seconds == pytest.approx(0.1, abs=0.05)

    on_cluster(work, a=load)


def test_who_leaves_frees_the_replica(tmp_path: Path) -> None:
    async def work(cluster: Cluster, client: Client, counted: Counted) -> None:
        task = asyncio.create_task(events_of(client, held(tmp_path)))
        await till_held(tmp_path)
        assert client.num_running + client.num_waiting == 1
        task.cancel()
        release(tmp_path)
        await until(lambda: not any(each.beat().num_jobs for each in cluster.replicas.values()))
        assert client.is_idle
        assert client.num_running + client.num_waiting == 0

    on_cluster(work)


def test_a_replica_with_other_weights_is_named_and_does_not_count(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    async def work(cluster: Cluster, client: Client, counted: Counted) -> None:
        assert client.card.weights_hash == load().card.weights_hash
        await until(lambda: "other weights" in caplog.text)
        with pytest.raises(EngineNotReady):  # were a router to send it there
            await asyncio.gather(events_of(client), events_of(client))
        cluster.lose("a")
        await until(lambda: client.card.weights_hash == "others")
        assert isinstance((await events_of(client))[-1], Finished)

    on_cluster(work, a=load, b=others)
    assert sum("other weights" in each for each in caplog.messages) == 1


def test_what_engines_see_is_counted_once_whoever_shares_them() -> None:
    async def work(cluster: Cluster, client: Client, counted: Counted) -> None:
        other = Pool(cluster, max_repeats=1)
        seen = Counted()
        other.watch(seen)
        await other.start()
        for _ in range(4):
            await events_of(client)
        await asyncio.sleep(0.2)
        await other.stop()
        assert counted.num_steps + seen.num_steps == 4 * len(("prefill", "denoise", "denoise", "decode"))
        assert counted.num_finished == 4

    on_cluster(work)


def test_servers_share_what_is_queued_by_whose_jobs_they_are(tmp_path: Path) -> None:
    async def work(cluster: Cluster, client: Client, counted: Counted) -> None:
        await events_of(client)
        other = Client(Pool(cluster, max_repeats=1), model_id="toy")
        await other.start()
        await other.ready()
        tasks = [
            asyncio.create_task(events_of(each, held(tmp_path), id=name))
            for each, name in ((client, "a"), (client, "b"), (other, "c"))
        ]
        await till_held(tmp_path)
        await asyncio.sleep(0.2)
        (beat,) = await cluster.beats()
        shares = client.status.queued_device_seconds, other.status.queued_device_seconds
        assert beat.num_jobs == 3
        assert sum(shares) == pytest.approx(beat.status.queued_device_seconds)
        assert shares[0] == pytest.approx(2 * shares[1])
        release(tmp_path)
        await asyncio.gather(*tasks)
        await other.stop()

    on_cluster(work, a=load)


def test_a_server_that_stops_tells_its_jobs_and_leaves_the_engines(tmp_path: Path) -> None:
    async def work(cluster: Cluster, client: Client, counted: Counted) -> None:
        task = asyncio.create_task(events_of(client, held(tmp_path), is_repeatable=True))
        await till_held(tmp_path)
        await client.stop()
        with pytest.raises(EngineDraining):
            await task
        release(tmp_path)
        other = Client(Pool(cluster, max_repeats=1), model_id="toy")
        await other.start()
        await other.ready()
        assert isinstance((await events_of(other))[-1], Finished)
        await other.stop()

    on_cluster(work)
