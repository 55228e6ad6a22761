import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Request

from model.drawing import Drawing
from model.errors import UnsupportedSize
from model.family import Size
from service.engine.client import Client
from service.engine.job import Finished, Job, LoadedModel
from service.errors import ClientGone
from service.waiting import finish, finish_all


def request_of(*messages: dict[str, Any]) -> Request:
    """Return a request whose client says this, then nothing."""
    left = list(messages)

    async def receive() -> Any:
        if left:
            return left.pop(0)
        await asyncio.Event().wait()

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


async def finished_by(client: Client, request: Request, **fields: Any) -> Finished:
    await client.start()
    await client.ready()
    try:
        return await finish(request, client, Job(id="a", work=Drawing(prompt="a", **fields)))
    finally:
        await client.stop()


def test_a_client_that_stays_gets_its_result(loaded: LoadedModel, make_client: Callable[..., Client]) -> None:
    finished = asyncio.run(finished_by(make_client(loaded), request_of({"type": "http.request"})))
    assert finished.result.images


def test_a_client_that_is_gone_gets_nothing_and_its_job_stops(
    gated_model: LoadedModel, gated: Any, make_client: Callable[..., Client]
) -> None:
    request = request_of({"type": "http.request"}, {"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        asyncio.run(finished_by(make_client(gated_model), request, num_inference_steps=500))
    assert gated.num_calls < 500


def test_a_refusal_comes_through(loaded: LoadedModel, make_client: Callable[..., Client]) -> None:
    with pytest.raises(UnsupportedSize):
        asyncio.run(finished_by(make_client(loaded), request_of(), size=Size(33, 33)))


def test_what_goes_wrong_with_one_of_several_jobs_cancels_the_rest(
    gated_model: LoadedModel, gated: Any, make_client: Callable[..., Client]
) -> None:
    async def both() -> None:
        client = make_client(gated_model)
        await client.start()
        await client.ready()
        jobs = [
            Job(id="a", work=Drawing(prompt="a", num_inference_steps=500)),
            Job(id="b", work=Drawing(prompt="a", size=Size(33, 33))),
        ]
        try:
            with pytest.raises(UnsupportedSize):
                await finish_all(request_of(), client, jobs)
            assert client.is_idle
        finally:
            await client.stop()

    asyncio.run(both())
    assert gated.num_calls < 500
