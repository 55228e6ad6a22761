"""Many jobs in one packed step: the pictures of each alone, and nobody pays for anybody else."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from model.drawing import Drawing, Drawn
from model.family import Size
from model.pipeline import answer, draw
from model.prompt import Turn
from model.question import Answered, Question
from model.request import Progress
from service.engine.cost import CostModel, Load
from service.engine.engine import Engine, EngineConfig
from service.engine.errors import DeadlineExceeded, DeadlineUnreachable, InsufficientMemory, JobFailed
from service.engine.job import Event, Failed, Finished, Job, LoadedModel, Preview
from tests.service.engine.test_engine import Counted

ONE_LEVEL = 1
"""Packing changes the order of float32 sums, which may carry a channel over a rounding edge, no further."""

PICTURE = Image.effect_noise((32, 32), 60).convert("RGB")
WIDE = Image.effect_noise((64, 32), 60).convert("RGB")


class Listener:
    """Keeps the events of one job."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ended = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Finished | Failed):
            self.ended.set()

    @property
    def last(self) -> Event:
        assert self.ended.wait(30), "the job did not end"
        return self.events[-1]


@pytest.fixture
def make_engine(gated_model: LoadedModel, gated: Any) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def make(costs: CostModel | None = None, **options: Any) -> Engine:
        engine = Engine(gated_model, EngineConfig(num_threads=1, **options), costs)
        engine.start()
        engines.append(engine)
        return engine

    yield make
    gated.gate.set()
    for engine in engines:
        engine.stop()


def drawing(**fields: Any) -> Drawing:
    return Drawing(**({"prompt": "a", "seed": 1, "num_inference_steps": 3, "size": Size(32, 32)} | fields))


def ask(text: str, *images: Image.Image) -> Question:
    return Question(turns=(Turn("user", (*images, text)),), max_tokens=4)


def submit(engine: Engine, *works: Drawing | Question, **fields: Any) -> list[Listener]:
    listeners = [Listener() for _ in works]
    for i, (work, listener) in enumerate(zip(works, listeners, strict=True)):
        engine.submit(Job(id=f"{id(listener)}-{i}", work=work, **fields), listener)
    return listeners


def held(engine: Engine, gated: Any, wait_until: Callable[..., None]) -> Listener:
    """Hold the engine in the first step of a job, so that what is submitted next comes together."""
    gated.gate.clear()
    calls = gated.num_calls
    (listener,) = submit(engine, drawing(seed=99))
    wait_until(lambda: gated.num_calls > calls)
    return listener


def result_of(listener: Listener) -> Any:
    last = listener.last
    assert isinstance(last, Finished), last
    return last.result


def assert_same_pictures(drawn: Drawn, alone: Drawn) -> None:
    assert drawn.seeds == alone.seeds
    for image, other in zip(drawn.images, alone.images, strict=True):
        assert image.size == other.size
        pixels, others = (torch.tensor(list(each.tobytes())).int() for each in (image, other))
        assert (pixels - others).abs().max() <= ONE_LEVEL


SIZES = st.sampled_from([Size(32, 32), Size(64, 32), Size(32, 64)])
DRAWINGS = st.builds(
    drawing,
    prompt=st.sampled_from(["a", "two words", "a longer prompt of words"]),
    negative_prompt=st.sampled_from(["", "bad"]),
    images=st.sampled_from([(), (PICTURE,), (WIDE, PICTURE)]),
    size=SIZES,
    n=st.integers(1, 2),
    seed=st.integers(0, 9),
    num_inference_steps=st.integers(1, 4),
    guidance_scale=st.sampled_from([1.0, 3.5]),
    image_guidance_scale=st.sampled_from([1.0, 2.0]),
    guidance_interval=st.sampled_from([None, (0.0, 0.4)]),
    solver=st.sampled_from(["euler", "dpmpp_2m"]),
)
QUESTIONS = st.builds(ask, st.sampled_from(["what?", "how many?"])) | st.builds(
    ask, st.just("what?"), st.just(PICTURE)
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(works=st.lists(DRAWINGS | QUESTIONS, min_size=1, max_size=6), leavers=st.sets(st.integers(0, 5)))
def test_whatever_runs_together_comes_out_as_alone(
    make_engine: Callable[..., Engine],
    loaded: LoadedModel,
    wait_until: Callable[..., None],
    works: list[Drawing | Question],
    leavers: set[int],
) -> None:
    engine = make_engine()
    listeners = submit(engine, *works)
    for place in leavers & set(range(len(works))):
        engine.cancel(f"{id(listeners[place])}-{place}")
    for place, (work, listener) in enumerate(zip(works, listeners, strict=True)):
        if place in leavers:
            continue
        result = result_of(listener)
        if isinstance(work, Question):
            alone = answer(loaded.family, work)
            assert (result.text, result.finish_reason) == (alone.text, alone.finish_reason)
        else:
            alone = draw(loaded.family, work)
            assert_same_pictures(result, alone)
            assert result.usage.network_calls == alone.usage.network_calls
        assert (
            result.usage.prefilled_tokens + result.usage.cached_prompt_tokens == alone.usage.prefilled_tokens
        )
    wait_until(lambda: engine.num_running + engine.num_waiting == 0)


def test_jobs_of_different_sizes_and_lengths_share_every_call(
    make_engine: Callable[..., Engine], gated: Any, wait_until: Callable[..., None]
) -> None:
    engine = make_engine()
    first = held(engine, gated, wait_until)
    works = [drawing(size=size, num_inference_steps=5) for size in (Size(32, 32), Size(64, 32))]
    works.append(drawing(images=(PICTURE,), num_inference_steps=5))
    before = gated.num_calls
    listeners = submit(engine, *works)
    gated.gate.set()
    for listener in (first, *listeners):
        result_of(listener)
    assert gated.num_calls - before <= 6


def test_what_was_read_is_not_read_again(make_engine: Callable[..., Engine], loaded: LoadedModel) -> None:
    engine = make_engine()
    family = loaded.family
    counts = []
    for work in (
        drawing(),
        drawing(seed=2),
        drawing(prompt="other"),
        drawing(images=(PICTURE,)),
        drawing(images=(PICTURE,), prompt="b"),
    ):
        before = family.module.und.num_prefilled_tokens
        (listener,) = submit(engine, work)
        usage = result_of(listener).usage
        counts.append(family.module.und.num_prefilled_tokens - before)
        assert usage.prefilled_tokens == counts[-1]
    fresh, again, other, edited, edited_otherwise = counts
    assert fresh > other > again == 0, "the empty prompt is everybody's"
    assert edited_otherwise < edited, "the picture is not looked at twice"


def test_a_question_among_pictures_waits_one_step_for_its_first_token(
    make_engine: Callable[..., Engine], gated: Any, wait_until: Callable[..., None]
) -> None:
    engine = make_engine()
    held(engine, gated, wait_until)
    submit(engine, *(drawing(num_inference_steps=40, seed=seed) for seed in range(3)))
    calls: list[int] = []

    class First(Listener):
        def __call__(self, event: Event) -> None:
            if getattr(event, "stage", "") == "answer" and not calls:
                calls.append(gated.num_calls)
            super().__call__(event)

    listener, before = First(), gated.num_calls
    engine.submit(Job(id="q", work=ask("what?")), listener)
    gated.gate.set()
    assert isinstance(listener.last, Finished)
    assert not calls or calls[0] - before <= 1


def test_a_row_that_is_not_finite_fails_alone(
    make_engine: Callable[..., Engine], loaded: LoadedModel, gated: Any, wait_until: Callable[..., None]
) -> None:
    engine = make_engine()
    spoilt = drawing(size=Size(64, 32))

    def velocity(rows: Any) -> Any:
        given = loaded.family.velocity(rows)
        return [v * float("nan") if v.shape[2] > v.shape[1] else v for v in given]

    first = held(engine, gated, wait_until)
    gated.velocity = velocity
    bad, good = submit(engine, spoilt, drawing())
    gated.gate.set()
    assert isinstance(bad.last, Failed)
    assert isinstance(bad.last.error, JobFailed)
    for listener in (first, good):
        result_of(listener)
    assert_same_pictures(result_of(good), draw(loaded.family, drawing()))


def test_a_call_that_fails_for_one_is_repeated_for_the_others(
    make_engine: Callable[..., Engine], loaded: LoadedModel, gated: Any, wait_until: Callable[..., None]
) -> None:
    engine = make_engine()

    def velocity(rows: Any) -> Any:
        if any(row.latent_CYX.shape[2] > row.latent_CYX.shape[1] for row in rows):
            raise MemoryError
        return loaded.family.velocity(rows)

    first = held(engine, gated, wait_until)
    gated.velocity = velocity
    bad, good = submit(engine, drawing(size=Size(64, 32)), drawing())
    gated.gate.set()
    assert isinstance(bad.last, Failed)
    result_of(first)
    assert_same_pictures(result_of(good), draw(loaded.family, drawing()))


def test_no_more_jobs_begin_than_may_run(
    make_engine: Callable[..., Engine], loaded: LoadedModel, gated: Any, wait_until: Callable[..., None]
) -> None:
    engine = make_engine(max_running=2, max_waiting=8)
    first = held(engine, gated, wait_until)
    listeners = submit(engine, *(drawing(seed=seed) for seed in range(5)))
    assert (engine.num_running, engine.num_waiting) == (1, 5)
    running: list[int] = []

    def velocity(rows: Any) -> Any:
        running.append(engine.num_running)
        return loaded.family.velocity(rows)

    gated.velocity = velocity
    gated.gate.set()
    for listener in (first, *listeners):
        result_of(listener)
    assert max(running) == 2


def test_a_deadline_that_cannot_be_met_is_refused_and_one_that_is_missed_ends_the_job(
    make_engine: Callable[..., Engine], gated: Any, wait_until: Callable[..., None]
) -> None:
    costs = CostModel()
    for rows in (1, 2, 4):
        costs.observe("denoise", Load(rows=rows, tokens=4 * rows, pairs=40 * rows), 1.0)
    engine = make_engine(costs)
    with pytest.raises(DeadlineUnreachable) as refusal:
        submit(engine, drawing(num_inference_steps=10), deadline_seconds=2.0)
    assert refusal.value.retry_after_seconds >= 1
    engine = make_engine()
    gated.gate.clear()
    engine.watch(observer := Counted())
    (listener,) = submit(engine, drawing(), deadline_seconds=0.05)
    wait_until(lambda: gated.num_calls > 0)
    threading.Event().wait(0.06)
    gated.gate.set()
    assert isinstance(listener.last, Failed)
    assert isinstance(listener.last.error, DeadlineExceeded)
    assert gated.num_calls == 1
    assert (observer.num_missed, observer.cancellations) == (1, ["denoise"])


def a_second_a_row() -> CostModel:
    """Return costs of which only flow steps are known."""
    costs = CostModel()
    for rows in (1, 2, 4) * 3:
        costs.observe("denoise", Load(rows=rows, tokens=4 * rows, pairs=40 * rows), float(rows))
    return costs


def test_what_is_ahead_counts_towards_a_deadline_unless_it_is_due_later(
    make_engine: Callable[..., Engine], gated: Any, wait_until: Callable[..., None]
) -> None:
    """Ten steps of two branches, 20 s alone: whether 30 s are enough is a matter of who is there."""
    ten = {"num_inference_steps": 10, "guidance_scale": 3.0}
    for ahead, fits in (({}, True), ({"deadline_seconds": 1000}, True), ({"deadline_seconds": 25}, False)):
        engine = make_engine(a_second_a_row())
        gated.gate.clear()
        gated.num_calls = 0
        if ahead:
            submit(engine, drawing(**ten), **ahead)
            wait_until(lambda: gated.num_calls > 0)
        if fits:
            submit(engine, drawing(**ten), deadline_seconds=30)
        else:
            with pytest.raises(DeadlineUnreachable) as refusal:
                submit(engine, drawing(**ten), deadline_seconds=30)
            assert 1 <= refusal.value.retry_after_seconds <= 20
        gated.gate.set()


def test_a_question_does_not_wait_for_a_place_among_drawings(
    make_engine: Callable[..., Engine], gated: Any, wait_until: Callable[..., None]
) -> None:
    engine = make_engine(max_running=1, max_waiting=8)
    first = held(engine, gated, wait_until)
    (drawn, answered) = submit(engine, drawing(num_inference_steps=30), ask("what?"))
    gated.gate.set()
    result_of(answered)
    assert not drawn.ended.is_set()
    result_of(first)
    result_of(drawn)


def teach_memory(engine: Engine, megabytes: int) -> None:
    """Let every row of a flow step take so much."""
    for rows in (1, 2, 4) * 3:
        engine.memory.observe(
            "denoise", Load(rows=rows, tokens=4 * rows, pairs=40 * rows), megabytes * 2**20 * rows
        )


def test_what_does_not_fit_alone_is_refused_and_says_what_to_change(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine(max_memory_bytes=100 * 2**20)
    teach_memory(engine, 20)
    with pytest.raises(InsufficientMemory, match="fewer pictures"):
        submit(engine, drawing(n=8, guidance_scale=1.0))
    (listener,) = submit(engine, drawing(n=2, guidance_scale=1.0))
    result_of(listener)


def test_what_does_not_fit_beside_others_takes_turns(
    make_engine: Callable[..., Engine], loaded: LoadedModel, gated: Any, wait_until: Callable[..., None]
) -> None:
    engine = make_engine(max_memory_bytes=100 * 2**20)
    teach_memory(engine, 20)
    most: list[int] = []

    def velocity(rows: Any) -> Any:
        most.append(len(rows))
        return loaded.family.velocity(rows)

    first = held(engine, gated, wait_until)
    gated.velocity = velocity
    works = [drawing(seed=seed, guidance_scale=1.0) for seed in range(6)]
    listeners = submit(engine, *works)
    gated.gate.set()
    result_of(first)
    for work, listener in zip(works, listeners, strict=True):
        assert_same_pictures(result_of(listener), draw(loaded.family, work))
    assert 2 <= max(most) <= 3


def test_an_answer_may_end_at_once_and_is_not_refused_for_its_length(
    make_engine: Callable[..., Engine],
) -> None:
    costs = CostModel()
    for _ in range(3):
        costs.observe("answer", Load(rows=1, tokens=1, pairs=20), 10.0)
        costs.observe("prefill", Load(rows=1, tokens=20, pairs=400), 10.0)
    engine = make_engine(costs)
    (listener,) = submit(engine, ask("what?"), deadline_seconds=20)
    assert isinstance(result_of(listener), Answered)


def test_every_event_says_how_long_it_will_take_and_the_last_what_was_expected(
    make_engine: Callable[..., Engine], gated: Any, wait_until: Callable[..., None]
) -> None:
    engine = make_engine(a_second_a_row())
    first = held(engine, gated, wait_until)
    (second,) = submit(engine, drawing(num_inference_steps=5, guidance_scale=1.0))
    (queued,) = second.events
    assert isinstance(queued, Progress)
    assert queued.stage == "queue"
    assert queued.eta_seconds is not None
    assert queued.eta_seconds > 5
    assert engine.status.queued_device_seconds > 5
    gated.gate.set()
    result_of(first)
    assert isinstance(second.last, Finished)
    assert second.last.timings.expected_seconds == queued.eta_seconds
    etas = [event.eta_seconds for event in second.events if isinstance(event, Progress)]
    assert all(eta is not None and eta >= 0 for eta in etas)
    assert engine.status.queued_device_seconds == 0


@pytest.mark.parametrize(("count", "steps"), [(0, 4), (1, 4), (3, 8), (3, 2)])
def test_previews_come_in_order_between_the_steps(
    make_engine: Callable[..., Engine], loaded: LoadedModel, count: int, steps: int
) -> None:
    engine = make_engine()
    (listener,) = submit(engine, drawing(n=2, num_inference_steps=steps), num_previews=count)
    assert_same_pictures(result_of(listener), draw(loaded.family, drawing(n=2, num_inference_steps=steps)))
    previews = [event for event in listener.events if isinstance(event, Preview)]
    assert len(previews) == min(count, steps - 1)
    assert [event.index for event in previews] == sorted({event.index for event in previews})
    assert all(image.size == (32, 32) for event in previews for image in event.images)
    assert all(len(event.images) == 2 for event in previews)


def test_no_event_follows_a_cancel(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    for _ in range(20):
        (listener,) = submit(engine, drawing(num_inference_steps=20))
        engine.cancel(f"{id(listener)}-0")
        told = len(listener.events)
        engine.cancel("nobody")
        assert len(listener.events) == told
    wait = threading.Event()
    while engine.num_running + engine.num_waiting:
        wait.wait(0.001)
    assert isinstance(result_of(submit(engine, ask("what?"))[0]), Answered)


def test_an_image_that_is_edited_again_is_not_encoded_again(
    make_engine: Callable[..., Engine], loaded: LoadedModel, gated: Any
) -> None:
    encoded: list[Image.Image] = []

    def encode(images: list[Image.Image]) -> Any:
        encoded.extend(images)
        return loaded.family.encode(images)

    gated.encode = encode
    engine = make_engine()
    edits = [drawing(prompt=words, images=(PICTURE,)) for words in ("red", "blue", "green")]
    for edit in edits:
        (listener,) = submit(engine, edit)
        assert_same_pictures(result_of(listener), draw(loaded.family, edit))
    assert encoded == [PICTURE]
    assert engine.status.cache_bytes > 0
