"""One worker thread, one bounded queue: jobs run one after another, straight down the pipeline.

Knows no event loop and no web. Events are told by callback, on the worker's thread.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from model.drawing import Drawing, Drawn, plan_drawing
from model.errors import Cancelled, ModelError
from model.pipeline import answer, draw
from model.question import Answered
from model.request import Progress
from service.engine.errors import EngineBusy, EngineDraining, EngineError, InsufficientMemory, JobFailed
from service.engine.job import Event, Failed, Finished, Job, LoadedModel, Timings
from service.engine.stopwatch import Stopwatch

log = logging.getLogger(__name__)

Emit = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How jobs share the machine. Nothing here changes a result.

    Attributes:
        max_waiting: Jobs that may wait beside the one that runs.
        num_threads: CPU threads of one operation; None leaves PyTorch's choice.
    """

    max_waiting: int = 64
    num_threads: int | None = None


class Observer(Protocol):
    """Who counts what the engine does; called on its thread."""

    def lapped(self, stage: str, seconds: float) -> None:
        """Take the time of one stage, or of one step of it."""
        ...

    def finished(self, job: Job, result: Drawn | Answered, timings: Timings) -> None:
        """Take note of a job that went well."""
        ...

    def cancelled(self, stage: str, wasted_seconds: float) -> None:
        """Take note of a job that was cancelled, where, and of the work that was for nothing."""
        ...


class Unobserved:
    """Counts nothing."""

    def lapped(self, stage: str, seconds: float) -> None:
        """Count nothing."""

    def finished(self, job: Job, result: Drawn | Answered, timings: Timings) -> None:
        """Count nothing."""

    def cancelled(self, stage: str, wasted_seconds: float) -> None:
        """Count nothing."""


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """A job between submission and its last event."""

    job: Job
    emit: Emit
    watch: Stopwatch
    is_cancelled: bool = field(default=False)


class Engine:
    """Runs jobs on a loaded model, one at a time, in the order they came."""

    def __init__(self, model: LoadedModel, config: EngineConfig) -> None:
        self.model = model
        self._config = config
        self._observer: Observer = Unobserved()
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._running: Ticket | None = None
        self._is_stopping = False
        self._job_seconds = 1.0
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)

    @property
    def num_waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Jobs on the device."""
        return int(self._running is not None)

    def watch(self, observer: Observer) -> None:
        """Let an observer count the jobs submitted from now on."""
        self._observer = observer

    def start(self) -> None:
        """Begin to take jobs from the queue."""
        self._worker.start()

    def stop(self) -> None:
        """Cancel everything and wait for the worker, a step at most.

        Jobs that are cut off are told EngineDraining.
        """
        with self._changed:
            self._is_stopping = True
            cut_off = list(self._waiting)
            self._waiting.clear()
            if self._running:
                self._running.is_cancelled = True
            self._changed.notify_all()
        for ticket in cut_off:
            self._cut_off(ticket)
        if self._worker.is_alive():
            self._worker.join()

    def submit(self, job: Job, emit: Emit) -> None:
        """Take a job in; its events come through `emit`, on the worker's thread, Finished or Failed last.

        Raises:
            BadRequest: The plan says that it cannot be done as asked.
            MissingCapability: The model cannot do this task.
            EngineBusy: The queue is full.
            EngineDraining: The engine is stopping.
        """
        if isinstance(job.work, Drawing):
            plan_drawing(self.model.family, job.work)
        with self._changed:
            if self._is_stopping:
                raise EngineDraining("the server is shutting down")
            if self.num_running + len(self._waiting) > self._config.max_waiting:
                raise self._busy()
            self._waiting.append(Ticket(job=job, emit=emit, watch=Stopwatch(self._observer.lapped)))
            self._changed.notify()

    def cancel(self, job_id: str) -> None:
        """Take a job out: at once when it waits, at its next step when it runs. Unknown ids are left."""
        with self._changed:
            for ticket in self._waiting:
                if ticket.job.id == job_id:
                    self._waiting.remove(ticket)
                    self._note_cancelled(ticket)
                    return
            if self._running and self._running.job.id == job_id:
                self._running.is_cancelled = True

    def _busy(self) -> EngineBusy:
        wait = math.ceil(self._job_seconds * (len(self._waiting) + self.num_running))
        return EngineBusy(
            f"{len(self._waiting)} jobs are waiting, which is all that may; try again in about {wait} s",
            retry_after_seconds=max(1, wait),
        )

    def _work(self) -> None:
        if self._config.num_threads:
            torch.set_num_threads(self._config.num_threads)
        while ticket := self._next():
            self._finish(ticket, self._outcome(ticket))

    def _next(self) -> Ticket | None:
        with self._changed:
            while not self._waiting and not self._is_stopping:
                self._changed.wait()
            self._running = self._waiting.popleft() if self._waiting else None
            return self._running

    def _outcome(self, ticket: Ticket) -> Event | None:
        """Run one job to its last event; None when it was cancelled."""
        try:
            result = self._run(ticket)
        except Cancelled:
            return None
        except ModelError as error:
            return Failed(error=error)
        except (torch.OutOfMemoryError, MemoryError):
            log.exception("job out of memory", extra={"job": ticket.job.id, "task": ticket.job.task})
            return Failed(
                error=InsufficientMemory("this request does not fit into memory; ask for less at once")
            )
        except Exception:
            log.exception("job failed", extra={"job": ticket.job.id, "task": ticket.job.task})
            return Failed(error=JobFailed("internal error"))
        ticket.watch.enter("done")
        self._observer.finished(ticket.job, result, ticket.watch.timings)
        return Finished(result=result, timings=ticket.watch.timings)

    def _run(self, ticket: Ticket) -> Drawn | Answered:
        def listen(progress: Progress) -> None:
            self._settle()
            ticket.watch.enter(progress.stage)
            if ticket.is_cancelled:
                raise Cancelled("cancelled")
            ticket.emit(progress)

        if isinstance(ticket.job.work, Drawing):
            return draw(self.model.family, ticket.job.work, listen)
        return answer(self.model.family, ticket.job.work, listen)

    def _settle(self) -> None:
        # Launches return before their work is done: without waiting, a step's time and its
        # cancellation would both come at the end of the job.
        if self.model.device.startswith("cuda"):
            torch.cuda.synchronize(self.model.device)

    def _finish(self, ticket: Ticket, event: Event | None) -> None:
        with self._changed:
            self._running = None
            is_stopping = self._is_stopping
        self._job_seconds += 0.2 * (ticket.watch.working_seconds - self._job_seconds)
        if event:
            ticket.emit(event)
        elif is_stopping:
            self._cut_off(ticket)
        else:
            self._note_cancelled(ticket)

    def _cut_off(self, ticket: Ticket) -> None:
        self._note_cancelled(ticket)
        error: EngineError = EngineDraining("the server is shutting down")
        ticket.emit(Failed(error=error))

    def _note_cancelled(self, ticket: Ticket) -> None:
        wasted = ticket.watch.working_seconds
        self._observer.cancelled(ticket.watch.stage, wasted)
        log.info(
            "job cancelled",
            extra={
                "job": ticket.job.id,
                "task": ticket.job.task,
                "stage": ticket.watch.stage,
                "wasted_seconds": wasted,
            },
        )
