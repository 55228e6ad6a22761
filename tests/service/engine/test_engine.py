from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from model.drawing import Drawing, Drawn
from model.errors import BadRequest, UnsupportedSize
from model.family import Size
from model.pipeline import draw
from model.prompt import Turn
from model.question import Answered, Question
from service.engine.cost import Load, Stage
from service.engine.engine import Engine, EngineConfig
from service.engine.errors import EngineBusy, EngineDraining, InsufficientMemory, JobFailed
from service.engine.job import Event, Failed, Finished, Job, LoadedModel
from service.engine.observer import Observer
from service.engine.scheduler import PRIORITIES, Priority


class Counted(Observer):
    def __init__(self) -> None:
        self.laps: list[str] = []
        self.cancellations: list[str] = []
        self.num_finished = 0
        self.firsts: list[str] = []
        self.num_missed = 0

    def waited(self, priority: Priority, seconds: float) -> None:
        assert priority in PRIORITIES
        assert seconds >= 0
        self.laps.append("queue")

    def stepped(self, stage: Stage, load: Load, seconds: float) -> None:
        assert seconds > 0
        assert load.rows > 0
        self.laps.append(stage)

    def finished(self, job: Job, result: Drawn | Answered, timings: Any) -> None:
        self.num_finished += 1

    def cancelled(self, tenant: str, stage: str, wasted_seconds: float) -> None:
        self.cancellations.append(stage)

    def came_first(self, what: Literal["token", "preview"], seconds: float) -> None:
        assert seconds > 0
        self.firsts.append(what)

    def missed_deadline(self) -> None:
        self.num_missed += 1


@pytest.fixture
def engine(gated_model: LoadedModel, gated: Any) -> Iterator[Engine]:
    engine = Engine(gated_model, EngineConfig(max_waiting=2, max_running=1, num_threads=1))
    engine.start()
    yield engine
    gated.gate.set()
    engine.stop()


def drawing(job_id: str, **fields: Any) -> Job:
    return Job(id=job_id, work=Drawing(**({"prompt": "a", "seed": 1, "num_inference_steps": 3} | fields)))


def run(engine: Engine, job: Job, wait_until: Callable[..., None]) -> list[Event]:
    events: list[Event] = []
    engine.submit(job, events.append)
    wait_until(lambda: bool(events) and isinstance(events[-1], Finished | Failed))
    return events


def test_the_engine_makes_the_pipelines_pixels(
    engine: Engine, loaded: LoadedModel, wait_until: Callable[..., None]
) -> None:
    job = drawing("a", n=2)
    last = run(engine, job, wait_until)[-1]
    assert isinstance(last, Finished)
    alone = draw(loaded.family, job.work)
    assert [image.tobytes() for image in last.result.images] == [image.tobytes() for image in alone.images]


def test_every_step_is_an_event(engine: Engine, wait_until: Callable[..., None]) -> None:
    *events, last = run(engine, drawing("a"), wait_until)
    stages = ["queue", "prefill", "denoise", "denoise", "denoise", "decode"]
    assert [event.stage for event in events] == stages
    assert isinstance(last, Finished)


def test_every_lap_is_observed_once_and_the_timings_are_their_sum(
    engine: Engine, wait_until: Callable[..., None]
) -> None:
    observer = Counted()
    engine.watch(observer)
    last = run(engine, drawing("a"), wait_until)[-1]
    assert observer.laps == ["queue", "prefill", "denoise", "denoise", "denoise", "decode"]
    assert observer.num_finished == 1
    timings = last.timings
    assert 0 < timings.device_seconds <= timings.total_seconds - timings.queue_seconds
    assert min(timings.prefill_seconds, timings.denoise_seconds, timings.decode_seconds) > 0


def test_a_question_is_answered_token_by_token(engine: Engine, wait_until: Callable[..., None]) -> None:
    observer = Counted()
    engine.watch(observer)
    job = Job(id="q", work=Question(turns=(Turn("user", ("What?",)),), max_tokens=3))
    *events, last = run(engine, job, wait_until)
    assert [event.stage for event in events[:2]] == ["queue", "prefill"]
    assert isinstance(last, Finished)
    assert observer.firsts == ["token"]
    assert isinstance(last.result, Answered)
    assert job.task == "understand"


def test_a_bad_request_is_refused_before_it_waits(engine: Engine, gated: Any) -> None:
    with pytest.raises(UnsupportedSize):
        engine.submit(drawing("a", size=Size(33, 32)), lambda event: None)
    with pytest.raises(BadRequest, match="n 0"):
        engine.submit(drawing("a", n=0), lambda event: None)
    assert engine.num_waiting == engine.num_running == gated.num_calls == 0


def test_the_queue_is_bounded_and_says_when_to_come_back(
    engine: Engine, gated: Any, wait_until: Callable[..., None]
) -> None:
    gated.gate.clear()
    events: list[Event] = []
    engine.submit(drawing("running"), events.append)
    wait_until(lambda: engine.num_running == 1)
    for name in ("first", "second"):
        engine.submit(drawing(name), events.append)
    with pytest.raises(EngineBusy) as refusal:
        engine.submit(drawing("third"), events.append)
    assert refusal.value.retry_after_seconds >= 1
    assert engine.num_waiting == 2
    gated.gate.set()
    wait_until(lambda: sum(isinstance(event, Finished) for event in events) == 3)


def test_a_running_job_stops_at_its_next_step(
    engine: Engine, gated: Any, wait_until: Callable[..., None]
) -> None:
    observer, events = Counted(), []
    engine.watch(observer)
    gated.gate.clear()
    engine.submit(drawing("a", num_inference_steps=50), events.append)
    wait_until(lambda: gated.num_calls == 1)
    engine.cancel("a")
    gated.gate.set()
    wait_until(lambda: observer.cancellations == ["denoise"])
    assert gated.num_calls == 1
    assert not any(isinstance(event, Finished | Failed) for event in events)


def test_a_waiting_job_leaves_at_once_and_never_runs(
    engine: Engine, gated: Any, wait_until: Callable[..., None]
) -> None:
    observer, events, cancelled = Counted(), [], []
    engine.watch(observer)
    gated.gate.clear()
    engine.submit(drawing("a"), events.append)
    wait_until(lambda: gated.num_calls == 1)
    engine.submit(drawing("b"), cancelled.append)
    engine.cancel("b")
    engine.cancel("nobody")
    assert engine.num_waiting == 0
    assert observer.cancellations == ["queue"]
    gated.gate.set()
    wait_until(lambda: bool(events) and isinstance(events[-1], Finished))
    assert [event.stage for event in cancelled] == ["queue"]


def test_a_cancelled_neighbour_changes_no_pixel(
    engine: Engine, loaded: LoadedModel, gated: Any, wait_until: Callable[..., None]
) -> None:
    gated.gate.clear()
    engine.submit(drawing("a", num_inference_steps=9), lambda event: None)
    wait_until(lambda: gated.num_calls == 1)
    events: list[Event] = []
    job = drawing("b", seed=5)
    engine.submit(job, events.append)
    engine.cancel("a")
    gated.gate.set()
    wait_until(lambda: bool(events) and isinstance(events[-1], Finished))
    assert events[-1].result.images[0].tobytes() == draw(loaded.family, job.work).images[0].tobytes()


@pytest.mark.parametrize(
    ("fault", "kind"), [(KeyError("secret words"), JobFailed), (MemoryError(), InsufficientMemory)]
)
def test_a_failed_job_fails_alone_and_its_words_stay_inside(
    engine: Engine, gated: Any, wait_until: Callable[..., None], fault: Exception, kind: type
) -> None:
    def fail(latents: Any) -> Any:
        raise fault

    gated.decode = fail
    last = run(engine, drawing("a"), wait_until)[-1]
    assert isinstance(last, Failed)
    assert type(last.error) is kind
    assert "secret" not in str(last.error)
    del gated.decode
    assert isinstance(run(engine, drawing("b"), wait_until)[-1], Finished)


def test_a_refusal_of_the_model_reaches_the_caller(
    engine: Engine, gated: Any, wait_until: Callable[..., None]
) -> None:
    def refuse(prompts: Any, prefixes: Any = None) -> Any:
        raise BadRequest("too long", param="prompt")

    gated.prefill = refuse
    last = run(engine, drawing("a"), wait_until)[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, BadRequest)


def test_stop_cuts_off_every_job_and_tells_them(
    engine: Engine, gated: Any, wait_until: Callable[..., None]
) -> None:
    gated.gate.clear()
    running, waiting = [], []
    engine.submit(drawing("a", num_inference_steps=50), running.append)
    wait_until(lambda: gated.num_calls == 1)
    engine.submit(drawing("b"), waiting.append)
    gated.gate.set()
    engine.stop()
    for events in (running, waiting):
        assert isinstance(events[-1], Failed)
        assert isinstance(events[-1].error, EngineDraining)
    with pytest.raises(EngineDraining):
        engine.submit(drawing("c"), running.append)
