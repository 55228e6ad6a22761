import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from model.drawing import Drawing
from model.errors import PromptTooLong
from model.pipeline import draw
from service.engine.affinity import Errand
from service.engine.engine import EngineConfig
from service.engine.errors import EngineNotReady, JobFailed
from service.engine.inline import InlineEngine
from service.engine.job import Failed, Finished, Job
from service.engine.replica import Replica, ReplicaReporter, Taken
from tests.service.engine.toy import Toy, load

WORK = Drawing(prompt="a", seed=1)


def job(**fields: Any) -> Job:
    return Job(**({"id": "a", "work": WORK, "tenant": "t"} | fields))


def errand(weights_hash: str = "") -> Errand:
    return Errand(key=b"", seconds=0.0, weights_hash=weights_hash or load().card.weights_hash)


def on_replica(work: Callable[[Replica], Awaitable[Any]]) -> Any:
    """Run something on a replica, from its start to its stop."""

    async def run() -> Any:
        replica = Replica("r", InlineEngine(load, EngineConfig(num_threads=1)))
        await replica.start()
        try:
            return await work(replica)
        finally:
            await replica.stop()

    return asyncio.run(run())


async def listen(replica: Replica, asked: Job, what: Errand | None = None) -> list[Any]:
    return [message async for message in replica.run(asked, what or errand())]


def test_a_job_is_told_who_has_it_then_all_events() -> None:
    first, *events = on_replica(lambda replica: listen(replica, job()))
    assert first == Taken(replica="r")
    assert isinstance(events[-1], Finished)
    assert events[-1].result.images == draw(Toy(), WORK).images  # type: ignore[arg-type]


def test_a_job_for_other_weights_is_refused() -> None:
    _, refusal = on_replica(lambda replica: listen(replica, job(), errand("others")))
    assert isinstance(refusal, Failed)
    assert isinstance(refusal.error, EngineNotReady)


@pytest.mark.parametrize(("prompt", "error"), [("refuse", PromptTooLong), ("fault", JobFailed)])
def test_a_refusal_is_the_last_word(prompt: str, error: type[Exception]) -> None:
    _, last = on_replica(lambda replica: listen(replica, job(work=Drawing(prompt=prompt))))
    assert isinstance(last, Failed)
    assert isinstance(last.error, error)
    assert "secret" not in str(last.error)


def names(replica: Replica) -> list[str]:
    return [name for name, _ in replica.beat().observed]


def test_who_leaves_takes_the_job_along(tmp_path: Any) -> None:
    async def leave(replica: Replica) -> tuple[int, int]:
        held = job(work=Drawing(prompt=f"hold {tmp_path}/go"))
        async with aclosing(replica.run(held, errand())) as messages:
            await anext(messages)
            await anext(messages)
            while not (tmp_path / "go.held").exists():
                await asyncio.sleep(0.01)
            during = replica.beat().num_jobs
        (tmp_path / "go").touch()
        while replica.beat().num_jobs:
            await asyncio.sleep(0.01)
        return during, replica.report().num_taken

    assert on_replica(leave) == (1, 1)


def test_what_was_done_for_somebody_who_had_left_is_counted_as_wasted() -> None:
    async def leave(replica: Replica) -> list[Any]:
        async with aclosing(replica.run(job(), errand())) as messages:
            await anext(messages)
            await anext(messages)
            while replica.beat().num_jobs:
                await asyncio.sleep(0.01)
        return replica.beat().observed

    ((name, (tenant, stage, seconds)),) = on_replica(leave)
    assert (name, tenant, stage) == ("cancelled", "t", "done")
    assert seconds > 0


def test_what_the_engine_saw_is_told_once() -> None:
    async def work(replica: Replica) -> tuple[list[str], list[str]]:
        await listen(replica, job())
        return names(replica), names(replica)

    first, second = on_replica(work)
    assert {"waited", "stepped", "prefilled"} <= set(first)
    assert not second


def test_that_the_engine_was_restarted_is_told() -> None:
    reporter = ReplicaReporter()
    reporter.restarted()
    assert reporter.take() == [("restarted", ())]


def test_a_report_says_what_a_router_has_to_know(tmp_path: Any) -> None:
    async def work(replica: Replica) -> list[float]:
        idle = replica.report()
        assert (idle.is_up, idle.weights_hash) == (True, load().card.weights_hash)
        held = asyncio.create_task(listen(replica, job(work=Drawing(prompt=f"hold {tmp_path}/go"))))
        while not (tmp_path / "go.held").exists():
            await asyncio.sleep(0.01)
        busy = replica.report()
        (tmp_path / "go").touch()
        await held
        return [idle.queued_seconds, idle.num_taken, busy.num_taken]

    assert on_replica(work) == [0.0, 0, 1]
