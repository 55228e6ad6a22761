"""Waiting for a job on behalf of a client that may leave."""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request

from service.engine.client import Client
from service.engine.job import Finished, Job
from service.errors import ClientGone

Result = TypeVar("Result")


async def finish(request: Request, client: Client, job: Job) -> Finished:
    """Run a job to its end, or cancel it when its client leaves.

    Raises:
        ClientGone: Nobody waits any more; the job stops at its next step.
        ModelError: As Client.submit.
        EngineError: As Client.submit.
    """
    (finished,) = await finish_all(request, client, [job])
    return finished


async def finish_all(request: Request, client: Client, jobs: Sequence[Job]) -> list[Finished]:
    """Run jobs to their end, side by side; what goes wrong with one cancels the rest. Raises as finish."""
    return await unless_gone(request, _last_events(client, jobs))


async def unless_gone(request: Request, waiting: Coroutine[Any, Any, Result]) -> Result:
    """Return what a coroutine returns, or end it when its client leaves.

    Raises:
        ClientGone: Nobody waits any more.
    """
    work = asyncio.ensure_future(waiting)
    gone = asyncio.ensure_future(leave(request))
    try:
        either: set[asyncio.Future[Any]] = {work, gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGone("the client closed the connection")
        return await work
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _last_events(client: Client, jobs: Sequence[Job]) -> list[Finished]:
    parts = [asyncio.ensure_future(last_event(client, job)) for job in jobs]
    try:
        return await asyncio.gather(*parts)
    finally:
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)


async def last_event(client: Client, job: Job) -> Finished:
    """Run a job and return its last event; raises as Client.submit."""
    async with contextlib.aclosing(client.submit(job)) as events:
        async for event in events:
            if isinstance(event, Finished):
                return event
    raise AssertionError("a job ends with Finished or raises")


async def leave(request: Request) -> None:
    """Return when the client has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
