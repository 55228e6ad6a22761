"""Runs jobs: takes those that wait, hands them to the engine when it has room, writes down what they come to.

A job is run from its beginning, whatever happened to it before; its seed is part of its request, so that
every run makes the same pixels.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace

from sqlalchemy.exc import SQLAlchemyError

from model.request import Progress
from service.database import brief
from service.deps import Service
from service.engine.client import State
from service.engine.errors import (
    DeadlineExceeded,
    EngineBusy,
    EngineDraining,
    EngineNotReady,
    EngineRestarting,
)
from service.engine.job import Event, Finished, Job
from service.errors import JobGivenUp, keep
from service.ledger import JobRow, LeaseLost, Ledger
from service.results import keep_images, without_files
from service.schemas.answers import ImagesAnswer
from service.schemas.body import Body, validate
from service.tasks import SCHEMAS, answer, to_job

log = logging.getLogger(__name__)

TICK_SECONDS = 2.0
ROOM_SECONDS = 0.2
"""How soon it is noticed that an engine that was full, or not ready, has room."""
PROGRESS_SECONDS = 0.5
BUSY_SECONDS = 0.2
FINISH_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class Flight:
    """A job that is with us.

    Attributes:
        has_begun: The engine has begun it.
        is_landing: The engine has done it, and its result is being kept.
    """

    tenant: str
    has_begun: bool = False
    is_landing: bool = False
    stage: str = ""
    noted: float = 0.0
    task: asyncio.Task[None] | None = None


class Runner:
    """Runs the jobs of the ledger on the service's engine, from start to stop.

    Of the places where jobs wait in the engine, half are left to requests that somebody waits for.

    Args:
        on_end: Called when a job has ended.
    """

    def __init__(self, service: Service, ledger: Ledger, on_end: Callable[[], None]) -> None:
        self._service = service
        self._on_end = on_end
        self._ledger = ledger
        self._flights: dict[str, Flight] = {}
        self._max_waiting = max(1, service.settings.max_waiting // 2)
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to run jobs, as soon as the engine is ready."""
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Keep the results that are there, and give all other jobs back, to be run after the next start."""
        if self._running:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        landing = [flight.task for flight in self._flights.values() if flight.is_landing and flight.task]
        if landing:
            await asyncio.wait(landing, timeout=FINISH_SECONDS)
        left = dict(self._flights)
        await self._cut_off(left)
        for job_id, flight in left.items():
            await self._release(job_id, flight, "the server is shutting down")

    def wake(self) -> None:
        """Say that a job was added."""
        self._wake.set()

    def drop(self, job_id: str) -> None:
        """Run a job no further; the ledger knows why."""
        flight = self._flights.get(job_id)
        if flight and flight.task:
            flight.task.cancel()

    async def _run(self) -> None:
        upkeep_due = 0.0
        while True:
            try:
                if time.monotonic() >= upkeep_due:
                    upkeep_due = time.monotonic() + TICK_SECONDS
                    await self._keep_up()
                await self._take_off()
            except (SQLAlchemyError, OSError) as error:
                log.warning("jobs wait for the database: %s", brief(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS if self._has_room else ROOM_SECONDS):
                    await self._wake.wait()
            self._wake.clear()

    async def _keep_up(self) -> None:
        """Prolong our leases, take over jobs of servers that ended, and give up on what comes too late."""
        if self._flights:
            await self._ledger.keep(self._flights.keys())
        for row in await self._ledger.orphans():
            if row.id not in self._flights:
                await self._adopt(row)
        for row in await self._ledger.late():
            is_due = row.deadline is not None and row.deadline < time.time()
            words = "given up: it could not begin within the time that jobs are kept"
            await self._give_up(row, _late() if is_due else JobGivenUp(words))

    async def _adopt(self, row: JobRow) -> None:
        if row.state == "running" and row.attempts >= self._service.settings.max_job_attempts:
            words = (
                f"given up: cut off {row.attempts} times, by the server's end or because it could not be kept"
            )
            await self._give_up(row, JobGivenUp(words))
        elif await self._ledger.adopt(row):
            log.warning("job taken over", extra={"job": row.id, "attempts": row.attempts})

    async def _give_up(self, row: JobRow, error: Exception) -> None:
        """Let a job fail that is nobody's."""
        told = keep(error)
        if await self._ledger.fail(row.id, told, is_ours=False):
            await self._end(row, "failed", told["code"])

    async def _take_off(self) -> None:
        """Claim jobs as long as the engine has room for them."""
        while self._has_room:
            tenants = Counter(flight.tenant for flight in self._flights.values())
            row = await self._ledger.claim(self._service.client.model_id, tenants)
            if row is None:
                return
            flight = self._flights[row.id] = Flight(row.tenant)
            flight.task = asyncio.create_task(self._fly(row, flight))

    @property
    def _has_room(self) -> bool:
        client = self._service.client
        waiting = sum(not flight.has_begun for flight in self._flights.values())
        return client.state is State.READY and max(waiting, client.num_waiting) < self._max_waiting

    async def _fly(self, row: JobRow, flight: Flight) -> None:
        """Run a job of ours to its end, or give it back; what cannot be written is left to its lease."""
        try:
            await self._run_job(row, flight)
        except LeaseLost:
            log.warning("job is no longer ours", extra={"job": row.id})
        except (SQLAlchemyError, OSError) as error:
            log.warning("job left to be taken over: %s", brief(error), extra={"job": row.id})
        finally:
            if self._flights.get(row.id) is flight:
                del self._flights[row.id]
            self._wake.set()

    async def _run_job(self, row: JobRow, flight: Flight) -> None:
        try:
            asked, job = await self._open(row)
            async with contextlib.aclosing(self._events(row, job)) as events:
                async for event in events:
                    await self._note(row.id, flight, event)
                    if isinstance(event, Finished):
                        flight.is_landing = True
                        await self._land(row, job, asked, event)
        except (LeaseLost, SQLAlchemyError, OSError):
            raise
        except (EngineNotReady, EngineDraining) as error:
            await self._release(row.id, flight, str(error))
        except EngineRestarting as error:
            await self._suspect(row, flight, str(error))
        except Exception as error:
            await self._fail(row, error)

    async def _events(self, row: JobRow, job: Job) -> AsyncGenerator[Event, None]:
        """Yield a job's events; a full queue is waited for. Raises as Client.submit."""
        while True:
            left = None if row.deadline is None else row.deadline - time.time()
            if left is not None and left <= 0:
                raise _late()
            in_time = replace(job, deadline_seconds=left)
            try:
                async with contextlib.aclosing(self._service.client.submit(in_time)) as events:
                    async for event in events:
                        yield event
            except EngineBusy:
                await asyncio.sleep(BUSY_SECONDS)
            else:
                return

    async def _open(self, row: JobRow) -> tuple[Body, Job]:
        """Read a job's request again; raises as to_job."""
        text = row.request
        if text is None:
            assert row.request_file, "a job that has not ended has its request"
            text = (await self._service.store.get(row.request_file)).decode()
        schema = SCHEMAS[row.task]
        asked = await asyncio.to_thread(lambda: validate(schema, json.loads(text)))
        tenant = await self._service.keys.find_tenant(row.tenant)
        job = await to_job(self._service, asked, row.id, tenant)
        return asked, replace(job, is_repeatable=True)

    async def _note(self, job_id: str, flight: Flight, event: Event) -> None:
        """Write progress down: every new stage, and within one not more often than twice a second."""
        if not isinstance(event, Progress):
            return
        now = time.monotonic()
        if event.stage == flight.stage and now < flight.noted + PROGRESS_SECONDS:
            return
        flight.stage, flight.noted = event.stage, now
        if event.stage != "queue" and not flight.has_begun:
            await self._ledger.begin(job_id, event)
            flight.has_begun = True
            self._wake.set()
        else:
            await self._ledger.note(job_id, event, "running" if flight.has_begun else "queued")

    async def _land(self, row: JobRow, job: Job, asked: Body, finished: Finished) -> None:
        """Keep the result: pictures first, then, at once, everything else."""
        made = await asyncio.to_thread(answer, self._service, job, asked, finished)
        names: list[str] = []
        if isinstance(made, ImagesAnswer):
            names = await keep_images(self._service.store, made, job_id=row.id)
        try:
            await self._ledger.succeed(row.id, without_files(made), names)
        except LeaseLost:
            await self._service.store.delete(names)
            raise
        await self._end(row, "succeeded")

    async def _fail(self, row: JobRow, error: Exception) -> None:
        """Let a job of ours fail."""
        told = keep(error)
        if told["code"] == "internal_error":
            log.error("job failed", exc_info=error, extra={"job": row.id})
        if not await self._ledger.fail(row.id, told):
            raise LeaseLost
        await self._end(row, "failed", told["code"])

    async def _end(self, row: JobRow, state: str, code: str | None = None) -> None:
        self._on_end()
        self._service.metrics.job_ended(row.task, state)
        log.info("job ended", extra={"job": row.id, "state": state} | ({"code": code} if code else {}))
        if row.request_file:
            await self._service.store.delete([row.request_file])

    async def _suspect(self, row: JobRow, flight: Flight, reason: str) -> None:
        """Let go of a job under which the engine ended; one that had begun has had its tries there."""
        attempts = row.attempts + 1
        if flight.has_begun or attempts >= self._service.settings.max_job_attempts:
            await self._fail(row, JobGivenUp("given up: the engine ended each time that this job ran"))
        else:
            await self._ledger.release(row.id, has_begun=False, reason=reason, is_suspect=True)

    async def _release(self, job_id: str, flight: Flight, reason: str) -> None:
        await self._ledger.release(job_id, has_begun=flight.has_begun, reason=reason)

    async def _cut_off(self, flights: Mapping[str, Flight]) -> None:
        tasks = [flight.task for flight in flights.values() if flight.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the work was done; allow more or ask for less")
