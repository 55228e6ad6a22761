"""Waiting for a job on behalf of a client that may leave."""

import asyncio
import contextlib
from collections.abc import Coroutine
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
    return await unless_gone(request, last_event(client, job))


async def unless_gone(request: Request, waiting: Coroutine[Any, Any, Result]) -> Result:
    """Return what a coroutine returns, or end it when its client leaves.

    Raises:
        ClientGone: Nobody waits any more.
    """
    work = asyncio.ensure_future(waiting)
    gone = asyncio.ensure_future(leave(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGone("the client closed the connection")
        return await work
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


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
