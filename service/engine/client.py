"""The engine's async face: hands jobs in and events out, wherever the engine runs."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import Protocol

from model.family import Capabilities
from service.engine.errors import EngineDraining, EngineNotReady, EngineRestarting
from service.engine.job import Emit, Event, Failed, Finished, Job, ModelCard, Status
from service.engine.observer import Observer

log = logging.getLogger(__name__)


Follow = Callable[[Job], AbstractContextManager[Emit]]
"""Goes along with a job: entered at its submission, given its events, left at its end by what ended it."""


class State(StrEnum):
    """Where the engine stands."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    RESTARTING = "restarting"
    DRAINING = "draining"


class Host(Protocol):
    """Where the engine runs: in this process or its own. Used, and heard, on the event loop's thread."""

    @property
    def is_up(self) -> bool:
        """Whether, once started, it takes jobs."""
        ...

    @property
    def card(self) -> ModelCard | None:
        """What the model is, once it is loaded."""
        ...

    @property
    def num_waiting(self) -> int:
        """Jobs that have not begun."""
        ...

    @property
    def num_running(self) -> int:
        """Jobs that have begun."""
        ...

    @property
    def status(self) -> Status:
        """What there is to do, as it was a moment ago."""
        ...

    def watch(self, observer: Observer) -> None:
        """Let an observer count what the engine does; to be called before `start`."""
        ...

    async def start(self) -> None:
        """Load the model and warm it up; raises what went wrong with that."""
        ...

    async def submit(self, job: Job, emit: Emit) -> None:
        """Take a job in; its events come through `emit`, Finished or Failed last.

        Raises:
            ModelError: What was asked cannot be done.
            EngineError: The engine does not take it.
        """
        ...

    def cancel(self, job_id: str) -> None:
        """Take a job out; it frees the device after the call that runs. Unknown ids are left."""
        ...

    async def stop(self) -> None:
        """Tell all jobs that are left EngineDraining and wait for the engine to end; may come twice."""
        ...


class Client:
    """Owns the engine from start to stop.

    Args:
        model_id: The model's name on the wire, known before it is loaded.
    """

    def __init__(self, host: Host, *, model_id: str) -> None:
        self.model_id = model_id
        self._host = host
        self._follow: Follow = _go_alone
        self._starting: asyncio.Task[None] | None = None
        self._num_inside = 0
        self._is_draining = False

    @property
    def state(self) -> State:
        """Where the engine stands now."""
        if self._is_draining:
            return State.DRAINING
        if not self._starting or not self._starting.done():
            return State.LOADING
        if self._starting.cancelled() or self._starting.exception():
            return State.FAILED
        return State.READY if self._host.is_up else State.RESTARTING

    @property
    def is_idle(self) -> bool:
        """Whether no job is in."""
        return self._num_inside == 0

    @property
    def num_waiting(self) -> int:
        """Jobs that have not begun."""
        return self._host.num_waiting

    @property
    def num_running(self) -> int:
        """Jobs on the device."""
        return self._host.num_running

    @property
    def status(self) -> Status:
        """What there is to do, as it was a moment ago."""
        return self._host.status

    @property
    def is_loaded(self) -> bool:
        """Whether the model was loaded, so that there is a card."""
        return self._host.card is not None

    @property
    def card(self) -> ModelCard:
        """What the loaded model is.

        Raises:
            EngineNotReady: It is still loading, or failed to.
        """
        if card := self._host.card:
            return card
        raise EngineNotReady("the model is not loaded yet", retry_after_seconds=2)

    @property
    def capabilities(self) -> Capabilities:
        """What the loaded model can do; raises as `card`."""
        return self.card.capabilities

    def watch(self, observer: Observer) -> None:
        """Let an observer count what the engine does; to be called before `start`."""
        self._host.watch(observer)

    def follow(self, follow: Follow) -> None:
        """Let somebody go along with every job from now on."""
        self._follow = follow

    async def start(self) -> None:
        """Begin to load and warm up, and return at once."""
        self._starting = asyncio.create_task(self._start())
        self._starting.add_done_callback(self._note_start)

    async def ready(self) -> None:
        """Wait until the model is loaded and warmed up; raise what went wrong with that."""
        assert self._starting, "start comes before ready"
        await asyncio.shield(self._starting)

    def check_loaded(self) -> None:
        """Return when jobs that can wait are taken: the engine may be on its way up again.

        Raises:
            EngineDraining: No more, on the way down.
            EngineNotReady: Not yet, or the model could not be loaded.
        """
        state = self.state
        if state is State.DRAINING:
            raise EngineDraining("the server is shutting down", retry_after_seconds=5)
        if state is State.FAILED:
            raise EngineNotReady(
                "the model could not be loaded; the server's log says why", retry_after_seconds=60
            )
        if state is State.LOADING:
            raise EngineNotReady("the model is not loaded and warmed up yet", retry_after_seconds=2)

    def check_ready(self) -> None:
        """Return when jobs are run.

        Raises:
            EngineDraining: As check_loaded.
            EngineNotReady: As check_loaded.
            EngineRestarting: Not while the engine is on its way up again.
        """
        self.check_loaded()
        if self.state is State.RESTARTING:
            raise EngineRestarting("the engine is being restarted", retry_after_seconds=5)

    def drain(self) -> None:
        """Take no more jobs; those that are in go on."""
        self._is_draining = True

    async def stop(self) -> None:
        """Cut off what is left and wait for the engine to end; may come twice."""
        self.drain()
        if self._starting:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self._host.stop()

    async def submit(self, job: Job) -> AsyncGenerator[Event, None]:
        """Run a job and yield its events, Finished last; leaving the iteration cancels the job.

        Raises:
            ModelError: What was asked cannot be done.
            EngineError: The engine is busy, not ready, draining, or failed.
        """
        with self._follow(job) as take:
            self.check_ready()
            events: asyncio.Queue[Event] = asyncio.Queue()
            self._num_inside += 1
            try:
                await self._host.submit(job, events.put_nowait)
                while True:
                    event = await events.get()
                    take(event)
                    if isinstance(event, Failed):
                        raise event.error
                    yield event
                    if isinstance(event, Finished):
                        return
            finally:
                self._num_inside -= 1
                self._host.cancel(job.id)

    async def _start(self) -> None:
        begun = time.perf_counter()
        await self._host.start()
        log.info("ready", extra={"model": self.model_id, "seconds": round(time.perf_counter() - begun, 3)})

    def _note_start(self, starting: asyncio.Task[None]) -> None:
        if starting.cancelled() or not (error := starting.exception()):
            return
        log.error("model not loaded: %s", error, extra={"model": self.model_id})


def _go_alone(job: Job) -> AbstractContextManager[Emit]:
    return nullcontext(lambda event: None)
