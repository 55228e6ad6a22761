import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from model.drawing import Drawing
from model.errors import BadCheckpoint
from model.request import Progress
from service.engine.client import Client, State
from service.engine.engine import EngineConfig
from service.engine.errors import EngineDraining, EngineNotReady
from service.engine.inline import InlineEngine
from service.engine.job import Finished, Job, LoadedModel

JOB = Job(id="a", work=Drawing(prompt="a", seed=1, num_inference_steps=3))


async def events_of(client: Client, job: Job) -> list[Any]:
    return [event async for event in client.submit(job)]


def test_events_come_in_order_and_finished_is_last(
    loaded: LoadedModel, make_client: Callable[..., Client]
) -> None:
    async def walk() -> None:
        client = make_client(loaded)
        await client.start()
        await client.ready()
        *steps, last = await events_of(client, JOB)
        assert all(isinstance(step, Progress) for step in steps)
        assert isinstance(last, Finished)
        await client.stop()

    asyncio.run(walk())


def test_nothing_is_taken_before_the_model_is_warm_and_after_drain(
    gated_model: LoadedModel, gated: Any, make_client: Callable[..., Client]
) -> None:
    async def walk() -> None:
        client = make_client(gated_model)
        gated.gate.clear()
        await client.start()
        while not gated.num_calls:
            await asyncio.sleep(0.005)
        with pytest.raises(EngineNotReady):
            await events_of(client, JOB)
        gated.gate.set()
        await client.ready()
        assert client.state is State.READY
        client.drain()
        with pytest.raises(EngineDraining):
            await events_of(client, JOB)
        await client.stop()

    asyncio.run(walk())


def test_leaving_the_iteration_cancels_the_job(
    gated_model: LoadedModel, gated: Any, make_client: Callable[..., Client]
) -> None:
    async def walk() -> None:
        client = make_client(gated_model)
        await client.start()
        await client.ready()
        gated.num_calls = 0
        gated.gate.clear()
        async with aclosing(
            client.submit(Job(id="b", work=Drawing(prompt="a", num_inference_steps=50)))
        ) as events:
            async for event in events:
                if event.stage == "denoise":
                    break
        gated.gate.set()
        while client.num_running:
            await asyncio.sleep(0.005)
        assert gated.num_calls <= 1
        await client.stop()

    asyncio.run(walk())


def test_a_model_that_cannot_be_loaded_is_told_to_who_waits_for_it() -> None:
    def load() -> LoadedModel:
        raise BadCheckpoint("missing everything")

    async def walk() -> None:
        client = Client(InlineEngine(load, EngineConfig()), model_id="none")
        await client.start()
        with pytest.raises(BadCheckpoint, match="everything"):
            await client.ready()
        await asyncio.sleep(0)
        assert client.state is State.FAILED
        with pytest.raises(EngineNotReady, match="could not be loaded"):
            client.check_ready()
        await client.stop()

    asyncio.run(walk())


def test_stop_ends_a_warm_up_that_has_not_ended(
    gated_model: LoadedModel, gated: Any, make_client: Callable[..., Client]
) -> None:
    async def walk() -> None:
        client = make_client(gated_model)
        gated.gate.clear()
        await client.start()
        while not gated.num_calls:
            await asyncio.sleep(0.005)
        asyncio.get_running_loop().call_later(0.05, gated.gate.set)
        await client.stop()
        assert client.state is State.DRAINING
        assert client.num_running == 0

    asyncio.run(walk())
