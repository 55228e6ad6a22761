"""Several equal engines somewhere else, behind the face of one.

Knows no cluster: `Engines` finds a replica for a job and says when one is lost. A job that may be repeated
outlives its replica; any other is told that the engine is being restarted.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from time import monotonic
from typing import Protocol

from model.prompt import Task
from model.request import Progress
from service.engine.affinity import Errand, affinity_key, amount_of
from service.engine.child import portable
from service.engine.errors import DeadlineExceeded, EngineDraining, EngineNotReady, EngineRestarting
from service.engine.job import IDLE, Emit, Event, Failed, Finished, Job, ModelCard, Status
from service.engine.observer import Observer
from service.engine.process import Flight, restarting
from service.engine.replica import Beat, Message, Taken
from service.engine.scheduler import PRIORITIES

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.5
TAKEN_SECONDS = 10.0
"""How long a replica is looked for before a job is told that there is none."""
FORGETTING = 0.9
"""Of what work of a task took so far, with every job after it."""


class ReplicaLost(Exception):
    """The replica of a job ended, or cannot be reached any more."""


class Engines(Protocol):
    """Replicas as they can be reached from here."""

    def run(self, job: Job, errand: Errand) -> AsyncGenerator[Message, None]:
        """Run a job on a replica; leaving the iteration cancels it there.

        Raises:
            ReplicaLost: The replica ended.
        """
        ...

    async def beats(self) -> Sequence[Beat]:
        """Ask all replicas how they are, and return what those say that answer; nothing if there are none."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class RemoteFlight(Flight):
    """A job's flight, and the replica that it goes to this time.

    Attributes:
        key: What its context begins with.
        replica: Who has it; "" while nobody does.
        num_tries: How often it was sent.
    """

    key: bytes
    replica: str = ""
    num_tries: int = 0
    task: asyncio.Task[None] | None = None


class Pool:
    """Engines elsewhere, from the first that is up to stop, which ends none of them.

    Args:
        max_repeats: Times that a repeatable job is run again that may be what ended its replica.

    Attributes:
        card: What the model is, from the first time that a replica is up.
    """

    def __init__(self, engines: Engines, *, max_repeats: int) -> None:
        self.card: ModelCard | None = None
        self._engines = engines
        self._max_repeats = max_repeats
        self._observer = Observer()
        self._beats: dict[str, Beat] = {}
        self._flights: dict[str, RemoteFlight] = {}
        self._lost: set[str] = set()
        self._strangers: set[str] = set()
        self._seconds: dict[Task, float] = {}
        self._listening: asyncio.Task[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether a replica takes jobs."""
        return any(beat.is_up and self._is_ours(beat) for beat in self._beats.values())

    @property
    def num_waiting(self) -> int:
        """Jobs of this server that have not begun."""
        return sum(flight.stage != "begun" for flight in self._flights.values())

    @property
    def num_running(self) -> int:
        """Jobs of this server that have begun."""
        return sum(flight.stage == "begun" for flight in self._flights.values())

    @property
    def status(self) -> Status:
        """What there is to do for this server's jobs, and what all replicas keep.

        Servers share replicas: of what a replica has queued, each tells the part of its own jobs, so that
        their sum is right.
        """
        flights = self._flights.values()
        waiting = Counter(flight.job.priority for flight in flights if flight.stage != "begun")
        own = Counter(flight.replica for flight in flights)
        beats = self._beats.values()
        return replace(
            IDLE,
            waiting={priority: waiting[priority] for priority in PRIORITIES},
            queued_device_seconds=sum(_share(beat, own[beat.replica]) for beat in beats),
            cache_bytes=sum(beat.status.cache_bytes for beat in beats),
        )

    def watch(self, observer: Observer) -> None:
        """Let an observer count what the engines do; to be called before `start`."""
        self._observer = observer

    async def start(self) -> None:
        """Wait until a replica is up."""
        while not self.is_up:
            await self._beat()
            if not self.is_up:
                await asyncio.sleep(BEAT_SECONDS)
        self._listening = asyncio.create_task(self._listen())

    async def submit(self, job: Job, emit: Emit) -> None:
        """Send a job to a replica; a refusal comes as Failed. Cancelled in here, it leaves nothing behind.

        Raises:
            EngineRestarting: No replica takes jobs.
        """
        has_pixels = job.task != "generate"
        key = await asyncio.to_thread(affinity_key, job) if has_pixels else affinity_key(job)
        if not self.is_up:
            raise restarting()
        flight = self._flights[job.id] = RemoteFlight(job=job, emit=emit, key=key)
        flight.task = asyncio.create_task(self._fly(flight))

    def cancel(self, job_id: str) -> None:
        """Take a job out; no event follows. Unknown ids are left."""
        flight = self._flights.pop(job_id, None)
        if flight and flight.task:
            flight.task.cancel()

    async def stop(self) -> None:
        """Tell all jobs that are left EngineDraining; may come twice. The replicas go on, for others."""
        flights = list(self._flights.values())
        tasks = [flight.task for flight in flights if flight.task]
        if self._listening:
            tasks.append(self._listening)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for flight in flights:
            self._end(flight, Failed(error=EngineDraining("the server is shutting down")))

    async def _listen(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            await self._beat()

    async def _beat(self) -> None:
        """Ask how all replicas are, and count what they saw."""
        try:
            beats = await self._engines.beats()
        except Exception:
            log.exception("the replicas cannot be asked")
            return
        self._note_changes({beat.replica for beat in beats if beat.is_up})
        self._beats = {beat.replica: beat for beat in beats}
        for beat in beats:
            for name, values in beat.observed:
                getattr(self._observer, name)(*values)
        self._agree([beat for beat in beats if beat.is_up])

    def _note_changes(self, up: set[str]) -> None:
        before = {beat.replica for beat in self._beats.values() if beat.is_up}
        for name in sorted(up - before):
            log.info("replica up", extra={"replica": name, "replicas": len(up)})
        for name in sorted(before - up):
            log.info("replica gone", extra={"replica": name, "replicas": len(up)})

    def _agree(self, beats: Sequence[Beat]) -> None:
        """Take up what the replicas serve; those that serve something else than the first get no jobs."""
        if beats and not any(map(self._is_ours, beats)):
            self.card = beats[0].card
        for beat in beats:
            if not self._is_ours(beat) and beat.replica not in self._strangers:
                self._strangers.add(beat.replica)
                ours = self.card.weights_hash if self.card else ""
                log.error(
                    "a replica has other weights and gets no jobs",
                    extra={"replica": beat.replica, "weights": beat.card.weights_hash, "expected": ours},
                )

    def _is_ours(self, beat: Beat) -> bool:
        return self.card is not None and beat.card.weights_hash == self.card.weights_hash

    async def _fly(self, flight: RemoteFlight) -> None:
        """Run a job to its end, again and again where that is allowed."""
        while True:
            try:
                last = await self._run(flight)
                may_repeat = _is_cut_off(last, has_begun=flight.stage == "begun")
            except ReplicaLost as error:
                self._note_lost(flight, error)
                last = Failed(error=restarting())
                may_repeat = flight.num_suspected <= self._max_repeats
            except Exception as error:
                last, may_repeat = Failed(error=portable(error, flight.job.id)), False
            if not (may_repeat and flight.job.is_repeatable):
                self._end(flight, last)
                return
            flight.stage, flight.replica = "sent", ""
            await asyncio.sleep(BEAT_SECONDS)

    async def _run(self, flight: RemoteFlight) -> Finished | Failed:
        """Send a job once, pass on what comes, and return its last event.

        Raises:
            ReplicaLost: Its replica ended.
        """
        assert self.card, "start comes before submit"
        job = flight.job
        left = None
        if job.deadline_seconds is not None:
            left = flight.submitted + job.deadline_seconds - monotonic()
            if left <= 0:
                return Failed(error=_late())
        # A replica that was thought lost may still have the last try.
        name = f"{job.id}.{flight.num_tries}" if flight.num_tries else job.id
        flight.num_tries += 1
        sent = replace(job, id=name, deadline_seconds=left)
        seconds = self._seconds.get(job.task, 0.0) * amount_of(job, self.card.capabilities)
        errand = Errand(key=flight.key, seconds=seconds, weights_hash=self.card.weights_hash)
        async with aclosing(self._engines.run(sent, errand)) as messages:
            try:
                async with asyncio.timeout(min(TAKEN_SECONDS, left or TAKEN_SECONDS)):
                    taken = await anext(messages)
            except TimeoutError:
                return Failed(error=_late() if left is not None and left < TAKEN_SECONDS else restarting())
            assert isinstance(taken, Taken), "a replica first says its name"
            flight.replica = taken.replica
            async for message in messages:
                assert not isinstance(message, Taken), "a replica says its name once"
                if isinstance(message, Finished | Failed):
                    return message
                self._tell(flight, message)
        raise ReplicaLost("the replica stopped without a last word")

    def _tell(self, flight: RemoteFlight, event: Event) -> None:
        is_queued = isinstance(event, Progress) and event.stage == "queue"
        if not is_queued:
            flight.stage = "begun"
        elif flight.stage == "sent":
            flight.stage = "waiting"
        flight.emit(event)

    def _note_lost(self, flight: RemoteFlight, error: ReplicaLost) -> None:
        """Whoever had begun may have been the cause; a replica is counted once for all its jobs."""
        flight.num_suspected += flight.stage == "begun"
        log.warning("replica lost: %s", error, extra={"job": flight.job.id, "replica": flight.replica})
        if flight.replica and flight.replica not in self._lost:
            self._lost.add(flight.replica)
            self._observer.restarted()

    def _end(self, flight: RemoteFlight, last: Finished | Failed) -> None:
        if self._flights.get(flight.job.id) is not flight:
            return
        del self._flights[flight.job.id]
        if isinstance(last, Finished):
            self._learn(flight.job, last.timings.device_seconds)
            self._observer.finished(flight.job, last.result, last.timings)
        flight.emit(last)

    def _learn(self, job: Job, device_seconds: float) -> None:
        """Learn what a unit of work takes, to say of the next job what it will."""
        assert self.card, "start comes before submit"
        seconds = device_seconds / amount_of(job, self.card.capabilities)
        known = self._seconds.get(job.task, seconds)
        self._seconds[job.task] = FORGETTING * known + (1 - FORGETTING) * seconds


def _share(beat: Beat, num_own: int) -> float:
    """Return the part of a replica's queue that is ours."""
    return beat.status.queued_device_seconds * num_own / max(num_own, beat.num_jobs, 1)


def _is_cut_off(last: Finished | Failed, *, has_begun: bool) -> bool:
    """Say whether a replica let go of a job for reasons of its own.

    One whose engine ends again and again under the same job says so in the end, when the job has begun.
    """
    if isinstance(last, Finished):
        return False
    return isinstance(last.error, EngineDraining) or (
        isinstance(last.error, EngineRestarting | EngineNotReady) and not has_begun
    )


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the work was done; allow more or ask for less")
