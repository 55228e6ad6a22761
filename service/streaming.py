"""Answers that come in pieces: server-sent events, from jobs' admission to their end."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import NamedTuple

from fastapi import Request
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus
from starlette.types import Receive, Scope, Send

from service.engine.client import Client
from service.engine.job import Event, Job
from service.errors import ClientGone, explain

# A server that is told to stop drains: who is left then hears so from the engine.
AppStatus.enable_automatic_graceful_drain = False


class Message(NamedTuple):
    """One server-sent event."""

    name: str | None
    data: BaseModel | str


Tell = Callable[[Event], Iterable[Message]]
"""What an event of the engine is on the wire; called off the event loop, in order."""


async def stream(request: Request, client: Client, jobs: Sequence[Job], tell: Tell) -> "EventStream":
    """Answer with what jobs tell, one after the other; when the client leaves, they are cancelled.

    What goes wrong after all were taken in is the stream's last event, `error`.

    Raises:
        ModelError: As Client.submit, before the answer has begun.
        EngineError: As Client.submit, before the answer has begun.
    """
    running = [client.submit(job) for job in jobs]
    try:
        firsts = [await anext(events) for events in running]
    except BaseException:
        await close(running)
        raise
    return EventStream(request, list(zip(firsts, running, strict=True)), tell)


async def close(running: Iterable[AsyncGenerator[Event, None]]) -> None:
    """Cancel jobs that have not ended."""
    for events in running:
        await events.aclose()


class EventStream(EventSourceResponse):
    """Jobs' events as an answer, whose end is the jobs'.

    Args:
        running: Of each job what its admission told, and what follows.
    """

    def __init__(
        self, request: Request, running: Sequence[tuple[Event, AsyncGenerator[Event, None]]], tell: Tell
    ) -> None:
        self._request, self._running, self._tell = request, running, tell
        self._is_whole = False
        super().__init__(self._messages())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream until its end, or until the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await close(events for _, events in self._running)
            if not self._is_whole:
                explain(self._request, ClientGone("the client closed the connection"))

    async def _messages(self) -> AsyncGenerator[ServerSentEvent, None]:
        try:
            for first, events in self._running:
                for message in await self._told(first):
                    yield message
                async for event in events:
                    for message in await self._told(event):
                        yield message
        except Exception as error:
            yield _encoded(Message("error", explain(self._request, error)[1]))
        self._is_whole = True

    async def _told(self, event: Event) -> list[ServerSentEvent]:
        return await asyncio.to_thread(lambda: [_encoded(message) for message in self._tell(event)])


def _encoded(message: Message) -> ServerSentEvent:
    data = message.data if isinstance(message.data, str) else message.data.model_dump_json()
    return ServerSentEvent(data, event=message.name)
