"""One of several equal engines behind a server: takes jobs by calls, and says how it is.

Knows no cluster. Whoever calls it may be any of several servers; what the engine counts is told to the one
that asks first, so that their counts add up.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from service.engine.affinity import Errand, Report
from service.engine.child import Reporter, portable
from service.engine.client import Host
from service.engine.errors import EngineNotReady
from service.engine.job import Event, Failed, Finished, Job, ModelCard, Status

Observed = list[tuple[str, tuple[Any, ...]]]
"""Names of an observer's methods, and what to give them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The first that comes back of a job: which replica has it."""

    replica: str


Message = Taken | Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """How a replica is.

    Attributes:
        num_jobs: Jobs that are in.
        observed: What its engine saw since the last beat, whoever asked for that one.
    """

    replica: str
    card: ModelCard
    is_up: bool
    num_jobs: int
    status: Status
    observed: Observed


class Replica:
    """An engine among its equals, from start to stop.

    Args:
        name: Tells it from the others.
    """

    def __init__(self, name: str, host: Host) -> None:
        self._name = name
        self._host = host
        self._reporter = ReplicaReporter()
        self._num_taken = 0

    async def start(self) -> None:
        """Load the model and warm it up; raises what went wrong with that."""
        self._host.watch(self._reporter)
        await self._host.start()

    async def stop(self) -> None:
        """Tell all jobs that are left EngineDraining and wait for the engine to end; may come twice."""
        await self._host.stop()

    async def run(self, job: Job, errand: Errand) -> AsyncGenerator[Message, None]:
        """Run a job and yield what becomes of it, Finished or Failed last; leaving it cancels the job."""
        self._num_taken += 1
        yield Taken(replica=self._name)
        if errand.weights_hash != self._card.weights_hash:
            words = f"replica {self._name} has other weights than this job was planned for"
            yield Failed(error=EngineNotReady(words, retry_after_seconds=5))
            return
        events: asyncio.Queue[Event] = asyncio.Queue()
        last: Event | None = None
        try:
            try:
                await self._host.submit(job, events.put_nowait)
            except Exception as error:
                yield Failed(error=portable(error, job.id))
                return
            while not isinstance(last, Finished | Failed):
                last = await events.get()
                yield last
        finally:
            self._host.cancel(job.id)
            while not events.empty():
                self._note_unread(job, events.get_nowait())

    def beat(self) -> Beat:
        """Say how it is, and what was seen since the last time."""
        return Beat(
            replica=self._name,
            card=self._card,
            is_up=self._host.is_up,
            num_jobs=self._host.num_waiting + self._host.num_running,
            status=self._host.status,
            observed=self._reporter.take(),
        )

    def report(self) -> Report:
        """Say what a router has to know."""
        return Report(
            is_up=self._host.is_up,
            weights_hash=self._card.weights_hash,
            num_taken=self._num_taken,
            queued_seconds=round(self._host.status.queued_device_seconds, 3),
        )

    @property
    def _card(self) -> ModelCard:
        assert self._host.card, "start comes first"
        return self._host.card

    def _note_unread(self, job: Job, event: Event) -> None:
        """Count work that was done for somebody who had just left."""
        if isinstance(event, Finished):
            self._reporter.cancelled(job.tenant, "done", event.timings.device_seconds)


class ReplicaReporter(Reporter):
    """Keeps also that the engine was restarted, which nobody else sees.

    What finishes is counted by the server whose job it was.
    """

    def restarted(self) -> None:
        """Keep that the engine ended by itself and is started again."""
        self._seen.append(("restarted", ()))
