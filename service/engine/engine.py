"""The loop: take jobs in, run packed steps over all of them, tell what happens, let go.

One thread owns the device, the family and the contexts. Every turn the scheduler says which jobs take the
next step; their rows go through one packed call, whatever their sizes, steps, guidance and tasks. Knows no
event loop and no web. Events are told by callback on the engine's thread, under the lock: once `cancel` has
returned, no event of that job follows.
"""

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Literal, cast

import torch

from model.drawing import Drawing
from model.errors import ModelError
from model.family import Family
from model.request import Progress
from service.engine.admission import Admission
from service.engine.calls import Calls
from service.engine.cost import CostModel, Stage
from service.engine.course import AnswerCourse, Course, DrawingCourse
from service.engine.errors import (
    DeadlineExceeded,
    EngineDraining,
    InsufficientMemory,
    JobFailed,
)
from service.engine.job import Emit, Event, Failed, Finished, Job, LoadedModel, Preview, Status
from service.engine.memory import MemoryModel, Meter, free_bytes
from service.engine.observer import Observer
from service.engine.scheduler import (
    PRIORITIES,
    Flow,
    Scheduler,
    SchedulerConfig,
    Standing,
    Step,
    Want,
)
from service.engine.stopwatch import Stopwatch
from service.engine.tally import Tally
from service.engine.ticket import Ticket

log = logging.getLogger(__name__)

NUM_THREADS = torch.get_num_threads()
"""PyTorch's choice, read before any thread makes one of its own, which new threads would take over."""
NUM_LEARNT = 64
"""Steps of a stage that all teach what it costs."""
LEARNS_ONE_IN = 4
"""After that, which part of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How jobs share the machine. Nothing here changes a result.

    Attributes:
        max_waiting: Jobs that may wait beside those that run.
        max_running: Drawings that may have begun, and hold contexts and latents; and as many answers.
        max_cache_bytes: Contexts and encoded references kept for later, beside those in use.
        max_call_seconds: A step expected to take longer is split into calls, and between them cancelled jobs
            leave.
        num_threads: CPU threads of one operation; None leaves PyTorch's choice.
        max_memory_bytes: For contexts and steps, beside the weights; None takes what these leave free.
        cost_folder: Where learnt costs are kept from one start to the next; None learns from callers alone.
        max_calibration_seconds: After which a start that finds no costs there begins no more measurements.
    """

    max_waiting: int = 64
    max_running: int = 32
    max_cache_bytes: int = 256 * 2**20
    max_call_seconds: float = 1.0
    num_threads: int | None = None
    max_memory_bytes: int | None = None
    cost_folder: Path | None = None
    max_calibration_seconds: float = 5.0
    scheduling: SchedulerConfig = field(default_factory=SchedulerConfig)


class Engine:
    """Runs jobs on a loaded model, many in one packed step.

    Attributes:
        costs: What steps take, learnt from every step.
        memory: What steps take of memory, learnt while `is_metering`, when steps are slower.
    """

    def __init__(self, model: LoadedModel, config: EngineConfig, costs: CostModel | None = None) -> None:
        self.model = model
        self.costs = costs or CostModel()
        self.memory = MemoryModel()
        self.is_metering = False
        self._config = config
        self._tally = Tally(model.family)
        self._observer = Observer()
        self._changed = threading.Condition()
        self._tickets: dict[str, Ticket] = {}
        self._admission = Admission(
            self._tickets,
            costs=self.costs,
            memory=self.memory,
            scheduling=config.scheduling,
            max_waiting=config.max_waiting,
            max_running=config.max_running,
            max_bytes=config.max_memory_bytes or free_bytes(model.card.device),
        )
        self._scheduler = Scheduler(config.scheduling, self.costs, fits=self._admission.fits)
        self._calls = Calls(
            cast(Family, self._tally),
            self.costs,
            max_cache_bytes=config.max_cache_bytes,
            max_call_seconds=config.max_call_seconds,
        )
        self._is_stopping = False
        self._step: tuple[Step, float] | None = None
        self._num_steps = 0
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)

    @property
    def num_waiting(self) -> int:
        """Jobs that have not begun."""
        return self._admission.num_waiting

    @property
    def num_running(self) -> int:
        """Jobs that have begun."""
        return sum(ticket.has_begun for ticket in list(self._tickets.values()))

    @property
    def is_alive(self) -> bool:
        """Whether jobs still move; a fault of ours can end the worker."""
        return self._worker.is_alive()

    @property
    def step_seconds(self) -> float:
        """How long the step on the device has taken so far; 0 between steps."""
        return self._admission.step_seconds

    @property
    def status(self) -> Status:
        """How much there is to do."""
        tickets = list(self._tickets.values())
        waiting = Counter(ticket.job.priority for ticket in tickets if not ticket.has_begun)
        return Status(
            waiting={priority: waiting[priority] for priority in PRIORITIES},
            queued_device_seconds=self._admission.queued_device_seconds,
            cache_bytes=self._calls.num_bytes,
        )

    def watch(self, observer: Observer) -> None:
        """Let an observer count from now on."""
        self._observer = observer

    def start(self) -> None:
        """Begin to take jobs from the queue."""
        self._worker.start()

    def stop(self) -> None:
        """Cancel everything and wait for the worker, a call at most.

        Jobs that are cut off are told EngineDraining.
        """
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._worker.is_alive():
            self._worker.join()
        self._sweep()

    def plan(self, job: Job) -> Course:
        """Work out what a job has to go through; needs no device and changes nothing.

        Raises:
            BadRequest: It cannot be done as asked.
            MissingCapability: The model cannot do this task.
        """
        if isinstance(job.work, Drawing):
            return DrawingCourse(self.model.family, job.work)
        return AnswerCourse(self.model.family, job.work)

    def submit(self, job: Job, emit: Emit) -> None:
        """Take a job in; its events come through `emit`, on the worker's thread, Finished or Failed last.

        Raises:
            BadRequest: The plan says that it cannot be done as asked.
            MissingCapability: The model cannot do this task.
            EngineBusy: The queue is full.
            DeadlineUnreachable: Even alone on the device it would come too late.
            EngineDraining: The engine is stopping.
        """
        self.enter(job, self.plan(job), emit)

    def enter(self, job: Job, course: Course, emit: Emit) -> None:
        """Take in a job that is planned already; as submit."""
        now = perf_counter()
        standing = Standing(
            job_id=job.id,
            flow=Flow(job.tenant, job.priority, job.weight),
            arrived=now,
            deadline=None if job.deadline_seconds is None else now + job.deadline_seconds,
        )
        needed = self._admission.seconds(course.remaining)
        held_bytes = self._admission.check_memory(course)
        with self._changed:
            if self._is_stopping:
                raise EngineDraining("the server is shutting down")
            self._admission.check_room(job)
            self._admission.check_deadline(job, standing, self._admission.seconds(course.least))
            expected = self._admission.expected_seconds(standing, needed)
            self._tickets[job.id] = Ticket(
                job=job,
                emit=emit,
                course=course,
                standing=standing,
                needed_seconds=needed,
                held_bytes=held_bytes,
                watch=Stopwatch(expected_seconds=expected),
            )
            self._scheduler.add(standing)
            emit(Progress(stage="queue", done=0, total=1, eta_seconds=expected))
            self._changed.notify()

    def cancel(self, job_id: str) -> None:
        """Take a job out: at once when it waits, after the call on the device when it runs.

        No event follows. Unknown ids are left.
        """
        with self._changed:
            ticket = self._tickets.get(job_id)
            if ticket is None:
                return
            ticket.is_cancelled = True
            if not ticket.has_begun:
                self._let_go(ticket)

    def _work(self) -> None:
        torch.set_num_threads(self._config.num_threads or NUM_THREADS)
        with torch.inference_mode():
            while taken := self._next():
                self._run(*taken)

    def _next(self) -> tuple[Step, list[Ticket]] | None:
        """Wait for work and return the next step with those who take it; None when all is over."""
        with self._changed:
            while True:
                self._sweep()
                if self._is_stopping:
                    return None
                if step := self._scheduler.choose(self._wants(), perf_counter()):
                    tickets = [self._tickets[job_id] for job_id in step.job_ids]
                    for ticket in tickets:
                        if not ticket.has_begun:
                            self._enter_stage(ticket)
                            self._observer.waited(ticket.job.priority, ticket.watch.timings.queue_seconds)
                    return step, tickets
                self._changed.wait()

    def _wants(self) -> list[Want]:
        """Return what every job that may run could do now."""
        return [
            Want(job_id=ticket.job.id, stage=ticket.course.stage, load=ticket.course.load)
            for ticket in self._admission.eligible()
            if ticket.course.stage
        ]

    def _enter_stage(self, ticket: Ticket) -> None:
        """Let a job go on, in the same stage or another, and tell where it stands."""
        progress = ticket.course.progress
        ticket.watch.enter(progress.stage)
        expected = self._admission.expected_seconds(ticket.standing, ticket.needed_seconds)
        ticket.emit(replace(progress, eta_seconds=expected))

    def _run(self, step: Step, tickets: list[Ticket]) -> None:
        """Run one step and tell what came of it."""
        begun = perf_counter()
        self._admission.under_way = step, begun
        if step.stage == "denoise" and step.seconds:
            self._admission.packing = step.seconds / sum(
                self.costs.seconds(step.stage, each.course.load) for each in tickets
            )
        with Meter() if self.is_metering else nullcontext() as meter:
            self._attempt(step.stage, tickets)
        if self.model.card.device.startswith("cuda"):
            # Launches return before their work is done: a step's time would be told too early.
            torch.cuda.synchronize(self.model.card.device)
        now = perf_counter()
        previews = self._previews(tickets) if step.stage == "denoise" else []
        for ticket, share in zip(tickets, step.shares, strict=True):
            ticket.watch.device_seconds += share * (now - begun)
            if ticket.end is None and ticket.course.stage is None:
                ticket.watch.enter("done")
                ticket.end = Finished(result=ticket.course.finish(), timings=ticket.watch.timings)
            ticket.needed_seconds = 0.0 if ticket.end else self._admission.seconds(ticket.course.remaining)
        with self._changed:
            if not any(isinstance(ticket.end, Failed) or ticket.is_cancelled for ticket in tickets):
                if meter:
                    self.memory.observe(step.stage, step.load, meter.peak_bytes)
                else:
                    self._learn(step, now - begun)
            self._scheduler.charge(step, now - begun, now)
            self._note_step(step, now - begun)
            if step.stage == "prefill":
                self._note_first("token", [each for each in tickets if each.job.is_question], now)
            self._note_first("preview", [ticket for ticket, _ in previews], now)
            for ticket, preview in previews:
                if not ticket.is_cancelled:
                    ticket.emit(preview)
            self._admission.under_way = None
            for ticket in tickets:
                if ticket.end is None and not ticket.is_cancelled:
                    self._enter_stage(ticket)
            self._sweep()

    def _learn(self, step: Step, seconds: float) -> None:
        """Learn what a step took; once much is known, from one step in a few: learning takes time as well."""
        self._num_steps += 1
        if self.costs.num_observed(step.stage) < NUM_LEARNT or self._num_steps % LEARNS_ONE_IN == 0:
            self.costs.observe(step.stage, step.load, seconds)

    def _note_step(self, step: Step, seconds: float) -> None:
        """Tell the observer what a step was."""
        self._observer.stepped(step.stage, step.load, seconds)
        if step.stage == "prefill":
            self._observer.prefilled(*self._calls.take_prompts())
        self._observer.computed(self._tally.take(), seconds)
        fallbacks = self.model.runner.take_fallbacks() if self.model.runner else {}
        for reason, count in fallbacks.items():
            self._observer.fell_back(reason, count)

    def _note_first(self, what: Literal["token", "preview"], tickets: Sequence[Ticket], now: float) -> None:
        for ticket in tickets:
            if not ticket.has_shown and not isinstance(ticket.end, Failed):
                ticket.has_shown = True
                self._observer.came_first(what, now - ticket.standing.arrived)

    def _previews(self, tickets: Sequence[Ticket]) -> list[tuple[Ticket, Preview]]:
        """Return the rough looks that are due after a step."""
        watched = [each for each in tickets if each.job.num_previews and each.end is None]
        looks = [(each, cast(DrawingCourse, each.course).preview(each.job.num_previews)) for each in watched]
        return [(ticket, preview) for ticket, preview in looks if preview]

    def _attempt(self, stage: Stage, tickets: Sequence[Ticket]) -> None:
        """Make one packed call; when it fails, one for each job, so that a bad job fails alone."""
        try:
            outcomes = self._calls.make(stage, tickets)
        except Exception as error:
            if len(tickets) == 1:
                self._fail(tickets[0], error)
                return
            log.warning("a packed step failed; its jobs go on one by one", extra={"stage": stage})
            for ticket in tickets:
                self._attempt(stage, [ticket])
            return
        for ticket, outcome in zip(tickets, outcomes, strict=True):
            if outcome is None:
                continue
            try:
                ticket.course.take(outcome)
            except Exception as error:
                self._fail(ticket, error)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        """Let a job end with an error, in words that its caller may know."""
        ticket.end = Failed(error=error)
        if isinstance(error, ModelError):
            return
        log.error("job failed", exc_info=error, extra={"job": ticket.job.id, "task": ticket.job.task})
        ticket.end = Failed(error=JobFailed("internal error"))
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            told = InsufficientMemory("this request does not fit into memory; ask for less at once")
            ticket.end = Failed(error=told)

    def _sweep(self) -> None:
        """Let go of every job that has ended, was cancelled, came too late, or is cut off."""
        now = perf_counter()
        for ticket in list(self._tickets.values()):
            if ticket.is_cancelled:
                self._let_go(ticket)
            elif ticket.end:
                self._let_go(ticket, ticket.end)
            elif self._is_stopping:
                self._let_go(ticket, Failed(error=EngineDraining("the server is shutting down")))
            elif ticket.standing.deadline is not None and now > ticket.standing.deadline:
                late = DeadlineExceeded(
                    "the deadline passed before the work was done; allow more or ask for less"
                )
                self._let_go(ticket, Failed(error=late))

    def _let_go(self, ticket: Ticket, last: Event | None = None) -> None:
        """Free all that a job holds, and tell its last event."""
        del self._tickets[ticket.job.id]
        self._scheduler.remove(ticket.job.id)
        if ticket.has_begun:
            self._calls.release(ticket.job.id)
        if isinstance(last, Finished):
            self._observer.finished(ticket.job, last.result, last.timings)
        elif last is None or last is not ticket.end:
            self._note_cancelled(ticket)
            if isinstance(last, Failed) and isinstance(last.error, DeadlineExceeded):
                self._observer.missed_deadline()
        if last:
            ticket.emit(last)

    def _note_cancelled(self, ticket: Ticket) -> None:
        stage, wasted = ticket.watch.stage, ticket.watch.device_seconds
        self._observer.cancelled(ticket.job.tenant, stage, wasted)
        log.info(
            "job cancelled",
            extra={"job": ticket.job.id, "task": ticket.job.task, "stage": stage, "wasted_seconds": wasted},
        )
