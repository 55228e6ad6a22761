"""Answers that come in pieces: server-sent events, from a job's admission to its end."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
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


async def stream(request: Request, client: Client, job: Job, tell: Tell) -> "EventStream":
    """Answer with what a job tells; when the client leaves, the job is cancelled.

    What goes wrong after the job was taken in is the stream's last event, `error`.

    Raises:
        ModelError: As Client.submit, before the answer has begun.
        EngineError: As Client.submit, before the answer has begun.
    """
    events = client.submit(job)
    return EventStream(request, await anext(events), events, tell)


class EventStream(EventSourceResponse):
    """A job's events as an answer, whose end is the job's.

    Args:
        first: What the job's admission told.
        events: What follows.
    """

    def __init__(
        self, request: Request, first: Event, events: AsyncGenerator[Event, None], tell: Tell
    ) -> None:
        self._request, self._events, self._tell = request, events, tell
        self._is_whole = False
        super().__init__(self._messages(first))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream until its end, or until the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            if not self._is_whole:
                explain(self._request, ClientGone("the client closed the connection"))

    async def _messages(self, first: Event) -> AsyncGenerator[ServerSentEvent, None]:
        try:
            for message in await self._told(first):
                yield message
            async for event in self._events:
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
