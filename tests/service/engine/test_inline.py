import asyncio
import threading
from typing import Any

from model.drawing import Drawing
from service.engine.engine import EngineConfig
from service.engine.inline import InlineEngine, warm_up_jobs
from service.engine.job import Event, Finished, Job, LoadedModel

JOB = Job(id="a", work=Drawing(prompt="a", num_inference_steps=2))


def test_warm_up_has_a_job_for_every_task(loaded: LoadedModel) -> None:
    can = loaded.card.capabilities
    assert [job.task for job in warm_up_jobs(can)] == list(can.tasks)


def test_events_are_told_on_the_event_loops_thread(loaded: LoadedModel) -> None:
    async def walk() -> None:
        host = InlineEngine(lambda: loaded, EngineConfig())
        assert host.card is None
        await host.start()
        assert host.card == loaded.card
        told: asyncio.Queue[tuple[Event, threading.Thread]] = asyncio.Queue()
        await host.submit(JOB, lambda event: told.put_nowait((event, threading.current_thread())))
        event, thread = await told.get()
        while not isinstance(event, Finished):
            event, thread = await told.get()
            assert thread is threading.current_thread()
        await host.stop()
        await host.stop()

    asyncio.run(walk())


def test_a_job_cancelled_while_it_is_planned_never_enters(gated_model: LoadedModel, gated: Any) -> None:
    planning, go_on = threading.Event(), threading.Event()

    async def walk() -> None:
        host = InlineEngine(lambda: gated_model, EngineConfig())
        await host.start()
        prepare = gated.prepare

        def prepare_slowly(prompt: Any) -> Any:
            planning.set()
            assert go_on.wait(20)
            return prepare(prompt)

        gated.prepare = prepare_slowly
        entering = asyncio.create_task(host.submit(JOB, lambda event: None))
        await asyncio.to_thread(planning.wait, 20)
        entering.cancel()
        await asyncio.wait([entering])
        host.cancel(JOB.id)
        go_on.set()
        await asyncio.sleep(0.05)
        assert host.num_waiting == host.num_running == 0
        await host.stop()

    asyncio.run(walk())
