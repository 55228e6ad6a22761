"""The engine in a process of its own: started, watched, and started again whenever it ends.

Knows no model: the child loads it. A step that crashes, hangs or eats all memory takes the child along and
nothing else.
"""

import asyncio
import logging
import math
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Literal

import zmq.asyncio

from model.errors import ModelError
from model.request import Progress
from service.engine.child import BEAT_SECONDS
from service.engine.engine import EngineConfig
from service.engine.errors import EngineDraining, EngineError, EngineNotReady, EngineRestarting
from service.engine.job import IDLE, Emit, Event, Failed, Finished, Job, LoadedModel, ModelCard
from service.engine.observer import Observer
from service.engine.peer import Peer, encode

log = logging.getLogger(__name__)

# A fresh interpreter rather than multiprocessing's spawn: that would import the parent's main module again.
BOOT = "from sys import argv, path; path[:] = argv[2:]; from service.engine.child import main; main(argv[1])"
TRACE_SECONDS = 0.5
LAST_WORDS_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchConfig:
    """When an engine's process is taken for hung, and how it is started again.

    Attributes:
        max_load_seconds: From its start until it is warmed up.
        max_step_seconds: For one step; who says nothing at all for so long is taken for hung too.
        max_stop_seconds: From being told to stop until it is killed.
        min_pause_seconds: Before it is started again; doubles from one time to the next.
        healthy_seconds: Who was ready for so long has the shortest pause again.
        max_repeats: Times that a repeatable job is run again that may be what ended the engine.
    """

    max_load_seconds: float = 600.0
    max_step_seconds: float = 120.0
    max_stop_seconds: float = 5.0
    min_pause_seconds: float = 0.5
    max_pause_seconds: float = 30.0
    healthy_seconds: float = 60.0
    max_repeats: int = 3


@dataclass(slots=True, kw_only=True, eq=False)
class Flight:
    """A job between submission and its last event.

    Attributes:
        stage: On its way over and planned, then waiting, then begun.
        num_suspected: How often what ran it ended while this may have been the cause.
    """

    job: Job
    emit: Emit
    submitted: float = field(default_factory=monotonic)
    stage: Literal["sent", "waiting", "begun"] = "sent"
    num_suspected: int = 0


class EngineProcess:
    """An engine in a child process, from its first start to stop.

    Args:
        load: Brings the model into memory, over there: a function of a module, or a partial of one.

    Attributes:
        is_up: The child is warmed up and takes jobs.
        card: What the model is, from the first time that it is up.
        status: What it last said there is to do.
    """

    def __init__(
        self, load: Callable[[], LoadedModel], config: EngineConfig, watch: WatchConfig | None = None
    ) -> None:
        self.is_up = False
        self.card: ModelCard | None = None
        self.status = IDLE
        self._task = load, config
        self._limits = watch or WatchConfig()
        self._observer = Observer()
        self._flights: dict[str, Flight] = {}
        self._peer: Peer
        self._keeping: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._up_since = math.inf
        self._heard = 0.0
        self._step_seconds = 0.0

    @property
    def num_waiting(self) -> int:
        """Jobs that have not begun."""
        return sum(flight.stage != "begun" for flight in self._flights.values())

    @property
    def num_running(self) -> int:
        """Jobs that have begun."""
        return sum(flight.stage == "begun" for flight in self._flights.values())

    def watch(self, observer: Observer) -> None:
        """Let an observer count what the engine does; to be called before `start`."""
        self._observer = observer

    async def start(self) -> None:
        """Start the child and wait until it is up.

        Raises:
            ModelError: It could not load the model.
            EngineNotReady: It ended, or hung, before it was up.
        """
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeping = asyncio.create_task(self._keep(ready))
        await ready

    async def submit(self, job: Job, emit: Emit) -> None:
        """Send a job over; a refusal comes as Failed. Cancelled in here, it leaves nothing behind.

        Raises:
            EngineRestarting: The child has just ended.
        """
        asked = "submit", job
        has_pixels = job.task != "generate"
        message = await asyncio.to_thread(encode, asked) if has_pixels else encode(asked)
        if not self.is_up:
            raise restarting()
        self._flights[job.id] = Flight(job=job, emit=emit)
        self._peer.send(message)

    def cancel(self, job_id: str) -> None:
        """Take a job out; no event follows. Unknown ids are left."""
        if self._flights.pop(job_id, None) and self.is_up:
            self._peer.send(encode(("cancel", job_id)))

    async def stop(self) -> None:
        """Let the child tell all jobs that are left EngineDraining and end, or kill it; may come twice."""
        self._stopping.set()
        if self._keeping:
            await asyncio.wait([self._keeping])

    async def _keep(self, ready: asyncio.Future[None]) -> None:
        """Start the child, and whenever it ends start it again; only the first time it must come up."""
        pause = self._limits.min_pause_seconds
        with zmq.asyncio.Context() as context:
            while True:
                try:
                    await self._live(context, ready)
                except Exception as error:
                    if not ready.done():
                        ready.set_exception(error)
                    if self.card is None:
                        return
                    self._note_end(error)
                if monotonic() - self._up_since > self._limits.healthy_seconds:
                    pause = self._limits.min_pause_seconds
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)
                    break
                pause = min(2 * pause, self._limits.max_pause_seconds)
                self._observer.restarted()
        self._let_go()

    async def _live(self, context: zmq.asyncio.Context, ready: asyncio.Future[None]) -> None:
        """Go with one child from its start to its end, and raise what that was."""
        self._up_since, self._heard, self._step_seconds = math.inf, monotonic(), 0.0
        with TemporaryDirectory(prefix="hbridge-") as folder, Peer(context) as self._peer:
            address = f"ipc://{folder}/engine"
            self._peer.bind(address)
            met = self._peer.send(encode(self._task))
            met.add_done_callback(lambda _: shutil.rmtree(folder, ignore_errors=True))
            child = await create_subprocess_exec(
                sys.executable, "-P", "-c", BOOT, address, *sys.path, stdin=PIPE, start_new_session=True
            )
            ends = (self._listen(ready), self._notice_exit(child), self._notice_hang(child), self._leave())
            tasks = [asyncio.create_task(each) for each in ends]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                done.pop().result()
            finally:
                self.is_up = False
                with suppress(ProcessLookupError):
                    child.kill()
                self._let_go()
                await child.wait()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, ready: asyncio.Future[None]) -> None:
        """Pass on what the child says; raise what it could not load."""
        while True:
            match await self._peer.receive():
                case "beat", step_seconds, status:
                    self._heard, self._step_seconds, self.status = monotonic(), step_seconds, status
                case "event", job_id, tenant, event:
                    self._tell(job_id, tenant, event)
                case "observed", observed:
                    for name, values in observed:
                        getattr(self._observer, name)(*values)
                case "ready", card:
                    self.card, self.is_up = card, True
                    self._up_since = self._heard = monotonic()
                    self._repeat()
                    if not ready.done():
                        ready.set_result(None)
                case "failed", error:
                    raise error

    async def _notice_exit(self, child: Process) -> None:
        """Raise when the child has ended by itself, and all that it had said has come."""
        code = await child.wait()
        self.is_up = False
        await asyncio.sleep(LAST_WORDS_SECONDS)
        raise EngineNotReady(f"the engine's process ended with exit code {code}")

    async def _notice_hang(self, child: Process) -> None:
        """Raise when the child has hung, and let it write down where."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            seconds = self._step_seconds + monotonic() - self._heard
            if seconds > (self._limits.max_step_seconds if self.is_up else self._limits.max_load_seconds):
                self.is_up = False
                child.send_signal(signal.SIGUSR1)
                await asyncio.sleep(TRACE_SECONDS)
                raise EngineNotReady(f"the engine's process has hung for {seconds:.0f} s")

    async def _leave(self) -> None:
        """Tell the child to stop, when it is time, and raise when it had its own."""
        await self._stopping.wait()
        if self.is_up:
            self._peer.send(encode(("stop",)))
            await asyncio.sleep(self._limits.max_stop_seconds)
        raise EngineDraining("the engine's process is stopped")

    def _tell(self, job_id: str, tenant: str, event: Event) -> None:
        flight = self._flights.get(job_id)
        if flight is None:
            if isinstance(event, Finished):
                # It was cancelled here while this was on its way.
                self._observer.cancelled(tenant, "done", event.timings.device_seconds)
            return
        is_queued = isinstance(event, Progress) and event.stage == "queue"
        flight.stage = "waiting" if is_queued else "begun"
        if isinstance(event, Finished | Failed):
            del self._flights[job_id]
        if isinstance(event, Finished):
            self._observer.finished(flight.job, event.result, event.timings)
        flight.emit(event)

    def _note_end(self, error: Exception) -> None:
        if self._stopping.is_set():
            return
        is_known = isinstance(error, ModelError | EngineError)
        words = error if is_known else "the engine's process failed"
        log.error("%s; it is started again", words, exc_info=None if is_known else error)

    def _repeat(self) -> None:
        """Send over the jobs that outlived the child before."""
        for flight in self._flights.values():
            job, flight.stage = flight.job, "sent"
            if job.deadline_seconds is not None:
                left = flight.submitted + job.deadline_seconds - monotonic()
                job = replace(job, deadline_seconds=max(0.0, left))
            self._peer.send(encode(("submit", job)))

    def _let_go(self) -> None:
        """Tell all jobs that the engine ended under them, but for those that are run again.

        Whoever had begun may have been the cause. Its last words can be lost: when nobody is known to have
        begun, anybody may. So a job that ends every engine is found out.
        """
        was_up = self._up_since < math.inf
        is_known = any(flight.stage == "begun" for flight in self._flights.values())
        for job_id, flight in list(self._flights.items()):
            flight.num_suspected += was_up and (flight.stage != "waiting" or not is_known)
            flight.stage = "waiting"
            error: Exception = restarting()
            if self._stopping.is_set():
                error = EngineDraining("the server is shutting down")
            elif flight.job.is_repeatable and flight.num_suspected <= self._limits.max_repeats:
                continue
            del self._flights[job_id]
            log.warning("job cut off", extra={"job": job_id, "task": flight.job.task})
            flight.emit(Failed(error=error))


def restarting() -> EngineRestarting:
    """Say that what a job was for has ended and comes back."""
    return EngineRestarting("the engine ended and is being restarted", retry_after_seconds=5)
