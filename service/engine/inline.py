"""The engine on a thread of this process: for tests and small servers, and inside the engine's own process.

To be used on the event loop's thread, where its events are told too. On a processor only the engine's thread
may have helpers: OpenMP keeps a team for each thread that ever computed in parallel, and as soon as teams
outnumber the cores they sleep between any two operations, which makes small steps half as fast. So the model
is loaded on a thread that ends, and jobs are planned on threads that compute alone.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from model.request import Progress
from service.engine.calibration import calibration_rounds, cost_file, warm_up_jobs
from service.engine.cost import CostModel
from service.engine.engine import Engine, EngineConfig
from service.engine.job import IDLE, Emit, Event, Failed, Finished, Job, LoadedModel, ModelCard, Status
from service.engine.memory import MemoryModel
from service.engine.observer import Observer

if TYPE_CHECKING:  # the server's process needs no compiler
    from model.compiled import CompiledRunner

NUM_PLANNERS = 4
PROGRESS_SECONDS = 0.1

log = logging.getLogger(__name__)


class InlineEngine:
    """A model and its engine, from loading to stop.

    Args:
        load: Brings the model into memory; called once, on a thread of its own.

    Attributes:
        is_up: Nothing ends it but `stop`.
    """

    is_up = True

    def __init__(self, load: Callable[[], LoadedModel], config: EngineConfig) -> None:
        self._load = load
        self._config = config
        self._observer = Observer()
        self._engine: Engine | None = None
        self._cost_file: Path | None = None
        self._planners = ThreadPoolExecutor(NUM_PLANNERS, "planner", torch.set_num_threads, (1,))

    @property
    def engine(self) -> Engine | None:
        """The engine itself, once the model is loaded."""
        return self._engine

    @property
    def card(self) -> ModelCard | None:
        """What the model is, once it is loaded."""
        return self._engine.model.card if self._engine else None

    @property
    def num_waiting(self) -> int:
        """Jobs that have not begun."""
        return self._engine.num_waiting if self._engine else 0

    @property
    def num_running(self) -> int:
        """Jobs on the device."""
        return self._engine.num_running if self._engine else 0

    @property
    def status(self) -> Status:
        """What there is to do."""
        return self._engine.status if self._engine else IDLE

    def watch(self, observer: Observer) -> None:
        """Let an observer count from the end of the warm-up on; to be called before `start`."""
        self._observer = observer

    async def start(self) -> None:
        """Load the model and warm it up; raises what went wrong with that."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "loader") as loader:
            model = await loop.run_in_executor(loader, self._load)
        self._engine = Engine(model, self._config)
        self._engine.start()
        for job in warm_up_jobs(model.card.capabilities):
            await self.finish(job)
        self._engine.costs.adopt(CostModel())  # the first of everything takes longer
        if model.runner:
            _report(model.runner)
        if self._config.cost_folder:
            self._cost_file = cost_file(self._config.cost_folder, model.card, self._config.num_threads)
            await self._learn_costs(self._engine, self._cost_file)
        self._engine.watch(self._observer)

    async def _learn_costs(self, engine: Engine, path: Path) -> None:
        """Take up what was learnt on this device before, or learn it now, in a few seconds."""
        engine.costs.adopt(CostModel.from_file(path))
        engine.memory.adopt(MemoryModel.from_file(_beside(path)))
        if path.exists() and _beside(path).exists():
            return
        begun = perf_counter()
        for engine.is_metering in (False, True):
            for jobs in calibration_rounds(engine.model.card.capabilities):
                if perf_counter() - begun > self._config.max_calibration_seconds:
                    break
                await asyncio.gather(*map(self.finish, jobs))
        engine.is_metering = False
        log.info("calibrated", extra={"seconds": round(perf_counter() - begun, 3)})
        await asyncio.to_thread(_store, engine, path)

    async def finish(self, job: Job) -> Finished:
        """Run a job to its end; raises what goes wrong with it."""
        events: asyncio.Queue[Event] = asyncio.Queue()
        await self.submit(job, events.put_nowait)
        while not isinstance(event := await events.get(), Finished):
            if isinstance(event, Failed):
                raise event.error
        return event

    async def submit(self, job: Job, emit: Emit) -> None:
        """Plan a job and take it in; raises as Engine.submit. Cancelled in here, it leaves nothing behind."""
        assert self._engine, "start comes before submit"
        loop = asyncio.get_running_loop()
        course = await loop.run_in_executor(self._planners, self._engine.plan, job)
        self._engine.enter(job, course, Courier(loop, emit))

    def cancel(self, job_id: str) -> None:
        """Take a job out, as Engine.cancel."""
        if self._engine:
            self._engine.cancel(job_id)

    async def stop(self) -> None:
        """Tell all jobs that are left EngineDraining and wait for the engine to end, a call at most."""
        self._planners.shutdown(wait=False)
        if not self._engine:
            return
        await asyncio.to_thread(self._engine.stop)
        if self._cost_file:
            await asyncio.to_thread(_store, self._engine, self._cost_file)


class Courier:
    """Carries a job's events from the engine's thread to the event loop.

    Progress within a stage goes ten times a second at most, and what comes between is dropped: to wake the
    loop costs more than many a step of a small model.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, emit: Emit) -> None:
        self._loop, self._emit = loop, emit
        self._stage = ""
        self._due = 0.0

    def __call__(self, event: Event) -> None:
        """Carry an event, unless it is not due."""
        if isinstance(event, Progress):
            now = perf_counter()
            if event.stage == self._stage and now < self._due:
                return
            self._stage, self._due = event.stage, now + PROGRESS_SECONDS
        # The loop may have been closed under a client that left without stopping us.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._emit, event)


def _store(engine: Engine, path: Path) -> None:
    """Keep what was learnt of times and of memory."""
    try:
        engine.costs.to_file(path)
        engine.memory.to_file(_beside(path))
    except OSError as error:
        log.warning("costs not kept: %s", error, extra={"path": str(path)})


def _beside(path: Path) -> Path:
    return path.with_suffix(".memory.json")


def _report(runner: "CompiledRunner") -> None:
    """Log what is prepared after the warm-up, and what is not; fallbacks count from here."""
    runner.take_fallbacks()
    log.info("prepared", extra={"sizes": runner.num_prepared})
    for stack, why in runner.problems.items():
        log.warning("not prepared, computed as it is: %s", stack, extra={"problem": why})
