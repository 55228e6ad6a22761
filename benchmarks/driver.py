"""An engine to be measured: jobs go in by hand, and every packed step is written down."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Event as Signal
from time import perf_counter
from typing import Self
from uuid import uuid4

from PIL.Image import Image
from torch import Tensor

from benchmarks.workload import Work, perform
from model.family import PreparedPrompt
from model.prompt import Turn
from model.question import Answered, Question
from model.request import Progress, Usage
from service.engine.cost import Load, Stage
from service.engine.course import Course
from service.engine.engine import Engine, EngineConfig
from service.engine.job import Event, Failed, Finished, Job, LoadedModel
from service.engine.observer import Observer

PATIENCE_SECONDS = 300
CACHE_BYTES = EngineConfig().max_cache_bytes
NOTHING = Question(turns=(Turn("user", ()),))


def ignore(_: Event) -> None:
    """Listen to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A packed step that ran, and when it ended."""

    stage: Stage
    load: Load
    seconds: float
    ended: float = field(default_factory=perf_counter)


class Aside:
    """Any work as a job of one step, on the engine's thread: the same core, caches and OpenMP team.

    Attributes:
        seconds: What it took, without anything of the engine's; 0 before.
    """

    load = Load(rows=1, tokens=1)
    least: Sequence[tuple[Stage, Load, int]] = ()
    prompts: Sequence[PreparedPrompt] = ()
    images: Sequence[Image] = ()
    progress = Progress(stage="decode", done=0, total=1)

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._is_done = False
        self.seconds = 0.0

    @property
    def stage(self) -> Stage | None:
        """The step that draws nothing packed."""
        return None if self._is_done else "decode"

    @property
    def remaining(self) -> Sequence[tuple[Stage, Load, int]]:
        """That step."""
        return [("decode", self.load, 1)]

    @property
    def latents(self) -> list[Tensor]:
        """None; reading them is the step."""
        begun = perf_counter()
        self._work()
        self.seconds = perf_counter() - begun
        self._is_done = True
        return []

    def take(self, outcome: object) -> None:
        """Take nothing."""

    def finish(self) -> Answered:
        """Return an answer without words."""
        return Answered(text="", finish_reason="stop", seed=0, usage=Usage())


class Driver(Observer):
    """An engine from start to stop.

    Args:
        max_cache_bytes: 0 keeps contexts for no longer than they are in use.

    Attributes:
        steps: All that ran, in order.
    """

    def __init__(self, model: LoadedModel, *, max_cache_bytes: int = 0) -> None:
        self.engine = Engine(model, EngineConfig(max_cache_bytes=max_cache_bytes))
        self.engine.watch(self)
        self.steps: list[Taken] = []

    def __enter__(self) -> Self:
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.stop()

    def stepped(self, stage: Stage, load: Load, seconds: float) -> None:
        """Write a step down."""
        self.steps.append(Taken(stage=stage, load=load, seconds=seconds))

    def submit(
        self, job: Job, listen: Callable[[Event], None] = ignore, *, course: Course | None = None
    ) -> Future[Finished]:
        """Take a job in; `listen` hears its events on the engine's thread. A cancelled job's never ends."""
        end: Future[Finished] = Future()

        def emit(event: Event) -> None:
            listen(event)
            if isinstance(event, Finished):
                end.set_result(event)
            elif isinstance(event, Failed):
                end.set_exception(event.error)

        self.engine.enter(job, course or self.engine.plan(job), emit)
        return end

    def run(self, *works: Work) -> list[Finished]:
        """Submit all at once and wait for all."""
        ends = [self.submit(to_job(work)) for work in works]
        return [end.result(PATIENCE_SECONDS) for end in ends]

    def run_bare(self, work: Work) -> float:
        """Perform a request with the bare pipeline on the engine's thread; return its seconds."""
        return self.run_aside(partial(perform, self.engine.model.family, work))

    def run_aside(self, work: Callable[[], object]) -> float:
        """Run anything on the engine's thread; return its seconds."""
        course = Aside(work)
        self.submit(to_job(NOTHING), course=course).result(PATIENCE_SECONDS)
        return course.seconds

    @contextmanager
    def kept_busy(self, works: Sequence[Callable[[], Work]]) -> Iterator[None]:
        """Keep one job of each kind under way, a new one as soon as it ends."""
        stopping = Signal()

        def repeat(make: Callable[[], Work]) -> None:
            while not stopping.is_set():
                self.run(make())

        with ThreadPoolExecutor(len(works)) as pool:
            ends = [pool.submit(repeat, make) for make in works]
            try:
                yield
            finally:
                stopping.set()
        for end in ends:
            end.result()


def to_job(work: Work) -> Job:
    """Give a request an id of its own."""
    return Job(id=uuid4().hex, work=work)
