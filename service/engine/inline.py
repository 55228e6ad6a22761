"""The engine on a thread of this process: for tests and small servers, and inside the engine's own process.

To be used on the event loop's thread, where its events are told too.
"""

import asyncio
import contextlib
from collections.abc import Callable

from PIL import Image

from model.drawing import Drawing
from model.family import Capabilities
from model.prompt import Turn
from model.question import Question
from service.engine.engine import Emit, Engine, EngineConfig, Observer, Unobserved
from service.engine.job import Event, Failed, Finished, Job, LoadedModel, ModelCard


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
        self._observer: Observer = Unobserved()
        self._engine: Engine | None = None

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

    def watch(self, observer: Observer) -> None:
        """Let an observer count from the end of the warm-up on; to be called before `start`."""
        self._observer = observer

    async def start(self) -> None:
        """Load the model and warm it up; raises what went wrong with that."""
        model = await asyncio.to_thread(self._load)
        self._engine = Engine(model, self._config)
        self._engine.start()
        for job in warm_up_jobs(model.card.capabilities):
            events: asyncio.Queue[Event] = asyncio.Queue()
            await self.submit(job, events.put_nowait)
            while not isinstance(event := await events.get(), Finished):
                if isinstance(event, Failed):
                    raise event.error
        self._engine.watch(self._observer)

    async def submit(self, job: Job, emit: Emit) -> None:
        """Plan a job and take it in; raises as Engine.submit. Cancelled in here, it leaves nothing behind."""
        assert self._engine, "start comes before submit"
        loop = asyncio.get_running_loop()

        def tell(event: Event) -> None:
            # The loop may have been closed under a client that left without stopping us.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(emit, event)

        course = await asyncio.to_thread(self._engine.plan, job)
        self._engine.enter(job, course, tell)

    def cancel(self, job_id: str) -> None:
        """Take a job out, as Engine.cancel."""
        if self._engine:
            self._engine.cancel(job_id)

    async def stop(self) -> None:
        """Tell all jobs that are left EngineDraining and wait for the engine to end, a call at most."""
        if self._engine:
            await asyncio.to_thread(self._engine.stop)


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
