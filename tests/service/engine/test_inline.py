import asyncio
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.compiled import CompileConfig, CompiledRunner
from model.drawing import Drawing
from model.request import Progress
from service.engine import inline
from service.engine.cost import Load
from service.engine.engine import EngineConfig
from service.engine.inline import Courier, InlineEngine
from service.engine.job import Event, Finished, Job, LoadedModel, Preview
from service.engine.observer import Observer
from service.loading import load_model
from service.settings import Settings

JOB = Job(id="a", work=Drawing(prompt="a", num_inference_steps=2))


def test_costs_are_learnt_at_the_first_start_and_kept(
    loaded: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def start() -> tuple[int, float]:
        config = EngineConfig(cost_folder=tmp_path, num_threads=1, max_calibration_seconds=60)
        host = InlineEngine(lambda: loaded, config)
        await host.start()
        assert host.engine
        costs = host.engine.costs
        load = Load(rows=2, tokens=8, pairs=80)
        learnt = costs.num_observed("denoise"), costs.seconds("denoise", load)
        assert host.engine.memory.bytes("denoise", load) > 0
        await host.stop()
        return learnt

    caplog.set_level("INFO")
    count, seconds = asyncio.run(start())
    assert count > 10
    assert seconds > 0
    assert len(list(tmp_path.iterdir())) == 2
    assert caplog.messages.count("calibrated") == 1
    assert asyncio.run(start()) == (count, seconds)
    assert caplog.messages.count("calibrated") == 1


def test_costs_that_cannot_be_kept_are_no_reason_not_to_start(
    loaded: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()

    async def walk() -> None:
        config = EngineConfig(cost_folder=tmp_path / "file", max_calibration_seconds=0)
        host = InlineEngine(lambda: loaded, config)
        await host.start()
        await host.stop()

    asyncio.run(walk())
    assert "costs not kept" in caplog.text


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


def test_progress_within_a_stage_is_told_now_and_then_and_all_else_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(inline, "perf_counter", lambda: now[0])
    told: list[Any] = []

    async def walk() -> None:
        courier = Courier(asyncio.get_running_loop(), told.append)
        for step in range(10):
            now[0] += 0.03
            courier(Progress(stage="denoise", done=step, total=10))
        courier(Progress(stage="decode", done=0, total=1))
        for index in range(2):
            courier(Preview(index=index, images=()))
        await asyncio.sleep(0)

    asyncio.run(walk())
    *steps, decode, first, second = told
    assert [step.done for step in steps] == [0, 4, 8]
    assert decode.stage == "decode"
    assert (first.index, second.index) == (0, 1)


def test_steps_that_fit_no_prepared_size_are_counted_from_the_warm_up_on(
    model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(Settings(model=str(model_folder)))
    runner = CompiledRunner(CompileConfig(tokens=(4,)))
    model.family.use_runner(runner)

    class Counting(Observer):
        def __init__(self) -> None:
            self.fallbacks: Counter[str] = Counter()

        def fell_back(self, reason: str, count: int) -> None:
            self.fallbacks[reason] += count

    async def walk() -> Counter[str]:
        host, counting = InlineEngine(lambda: replace(model, runner=runner), EngineConfig()), Counting()
        host.watch(counting)
        await host.start()
        assert counting.fallbacks == {}
        await host.finish(JOB)
        await host.stop()
        return counting.fallbacks

    caplog.set_level("INFO")
    fallbacks = asyncio.run(walk())
    assert set(fallbacks) == {"tokens"}
    assert "prepared" in caplog.messages


def test_what_cannot_be_prepared_is_told_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    runner = CompiledRunner(CompileConfig(tokens=(4,)))
    runner.problems["layers"] = "RuntimeError: no compiler"
    inline._report(runner)
    (told,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert vars(told)["problem"] == "RuntimeError: no compiler"
