"""The engine's async face: loads the model off the event loop, hands jobs in and events out."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from enum import StrEnum

from PIL import Image

from model.drawing import Drawing
from model.family import Capabilities
from model.prompt import Turn
from model.question import Question
from service.engine.engine import Engine, EngineConfig, Observer
from service.engine.errors import EngineDraining, EngineNotReady
from service.engine.job import Event, Failed, Finished, Job, LoadedModel

log = logging.getLogger(__name__)


class State(StrEnum):
    """Where the engine stands."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


class Client:
    """Owns the engine from start to stop.

    Args:
        load: Brings the model into memory; called once, on a thread of its own.
        model_id: Its name on the wire, known before it is loaded.
    """

    def __init__(self, load: Callable[[], LoadedModel], config: EngineConfig, *, model_id: str) -> None:
        self.model_id = model_id
        self.state = State.LOADING
        self._load = load
        self._config = config
        self._observer: Observer | None = None
        self._engine: Engine | None = None
        self._starting: asyncio.Task[None] | None = None

    @property
    def num_waiting(self) -> int:
        """Jobs that have not begun."""
        return self._engine.num_waiting if self._engine else 0

    @property
    def num_running(self) -> int:
        """Jobs on the device."""
        return self._engine.num_running if self._engine else 0

    @property
    def model(self) -> LoadedModel:
        """The loaded model.

        Raises:
            EngineNotReady: It is still loading, or failed to.
        """
        return self._open_engine().model

    @property
    def capabilities(self) -> Capabilities:
        """What the loaded model can do; raises as `model`."""
        return self.model.family.capabilities

    def watch(self, observer: Observer) -> None:
        """Let an observer count what the engine does; to be called before `start`."""
        self._observer = observer

    async def start(self) -> None:
        """Begin to load and warm up, and return at once."""
        self._starting = asyncio.create_task(self._start())
        self._starting.add_done_callback(self._note_start)

    async def ready(self) -> None:
        """Wait until the model is loaded and warmed up; raise what went wrong with that."""
        assert self._starting, "start comes before ready"
        await asyncio.shield(self._starting)

    def check_ready(self) -> None:
        """Return when jobs are taken.

        Raises:
            EngineDraining: No more, on the way down.
            EngineNotReady: Not yet, or the model could not be loaded.
        """
        if self.state is State.DRAINING:
            raise EngineDraining("the server is shutting down", retry_after_seconds=5)
        if self.state is State.FAILED:
            raise EngineNotReady(
                "the model could not be loaded; the server's log says why", retry_after_seconds=60
            )
        if self.state is State.LOADING:
            raise EngineNotReady("the model is not loaded and warmed up yet", retry_after_seconds=2)

    def drain(self) -> None:
        """Take no more jobs; those that are in go on."""
        self.state = State.DRAINING

    async def stop(self) -> None:
        """Cancel what is left and wait for the engine to end."""
        self.drain()
        if self._starting:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._engine:
            await asyncio.to_thread(self._engine.stop)

    async def submit(self, job: Job) -> AsyncGenerator[Event, None]:
        """Run a job and yield its events, Finished last; leaving the iteration cancels the job.

        Raises:
            ModelError: What was asked cannot be done.
            EngineError: The engine is busy, not ready, draining, or failed.
        """
        self.check_ready()
        async with contextlib.aclosing(self._events(self._open_engine(), job)) as events:
            async for event in events:
                yield event

    async def _start(self) -> None:
        begun = time.perf_counter()
        model = await asyncio.to_thread(self._load)
        self._engine = Engine(model, self._config)
        self._engine.start()
        for job in warm_up_jobs(model.family.capabilities):
            async for _ in self._events(self._engine, job):
                pass
        if self._observer:
            self._engine.watch(self._observer)
        if self.state is State.LOADING:
            self.state = State.READY
        log.info("ready", extra={"model": self.model_id, "seconds": round(time.perf_counter() - begun, 3)})

    def _note_start(self, starting: asyncio.Task[None]) -> None:
        if starting.cancelled() or not (error := starting.exception()):
            return
        self.state = State.FAILED
        log.error("model not loaded: %s", error, extra={"model": self.model_id})

    def _open_engine(self) -> Engine:
        if self._engine is None:
            raise EngineNotReady("the model is not loaded yet", retry_after_seconds=2)
        return self._engine

    async def _events(self, engine: Engine, job: Job) -> AsyncGenerator[Event, None]:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def tell(event: Event) -> None:
            # The loop may have been closed under a client that left without stopping us.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(events.put_nowait, event)

        course = await asyncio.to_thread(engine.plan, job)
        engine.enter(job, course, tell)
        try:
            while True:
                event = await events.get()
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            engine.cancel(job.id)


def warm_up_jobs(can: Capabilities) -> list[Job]:
    """Return the smallest job of every task, so that the first caller does not pay for first-time work."""
    image = Image.new("RGB", (can.default_size.width, can.default_size.height))
    seen = (image,) if can.max_images else ()
    works: dict[str, Drawing | Question] = {
        "generate": Drawing(prompt="warm up", num_inference_steps=1, seed=0),
        "edit": Drawing(prompt="warm up", num_inference_steps=1, seed=0, images=(image,)),
        "understand": Question(turns=(Turn("user", (*seen, "warm up")),), max_tokens=1),
    }
    return [Job(id=f"warm-up-{task}", work=works[task]) for task in can.tasks]
