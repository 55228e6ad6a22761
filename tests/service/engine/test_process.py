"""A real child process at each turn; its family is a toy, so that it starts as fast as torch is imported."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.drawing import Drawing
from model.errors import PromptTooLong, UnsupportedSize
from model.family import Size
from model.pipeline import answer, draw
from model.prompt import Turn
from model.question import Question
from service.engine.client import Client, State
from service.engine.engine import EngineConfig
from service.engine.errors import EngineDraining, EngineNotReady, EngineRestarting, JobFailed
from service.engine.job import Event, Finished, Job
from service.engine.process import EngineProcess, WatchConfig
from tests.service.engine.toy import Toy, fail_to_load, load, load_for_ever

pytestmark = pytest.mark.timeout(600)  # a start takes a second of work, which a busy machine makes many

ROOT = Path(__file__).parents[3]
PATIENCE = 150
NOISE = Image.effect_noise((64, 32), 60).convert("RGB")
WATCH = WatchConfig(min_pause_seconds=0.01, max_pause_seconds=0.02, max_repeats=1, max_stop_seconds=20)


class Counted:
    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values: self.told.append((name, *values))

    def count(self, *start: Any) -> int:
        return sum(each[: len(start)] == start for each in self.told)


class Running:
    """A client of an engine process, on an event loop in a thread of its own."""

    def __init__(self, watch: WatchConfig = WATCH, load: Callable[[], Any] = load) -> None:
        self.host = EngineProcess(load, EngineConfig(num_threads=1), watch)
        self.client = Client(self.host, model_id="toy")
        self.counted = Counted()
        self.client.watch(self.counted)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self) -> "Running":
        self._thread.start()
        self.do(self.client.start())
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self.client.stop())
        self.do(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()

    def begin(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.begin(work).result(PATIENCE)

    def ready(self) -> "Running":
        self.do(self.client.ready())
        return self

    def submit(self, work: Drawing | Question, **fields: Any) -> Future[Event]:
        """Return the last event of a job."""
        job = Job(id=f"{id(work)}", work=work, **fields)
        return self.begin(self._last_event(job))

    async def _last_event(self, job: Job) -> Event:
        async with aclosing(self.client.submit(job)) as events:
            return [event async for event in events][-1]

    @property
    def pid(self) -> int:
        return int(self.client.card.weights_hash)


def drawing(prompt: str = "a", **fields: Any) -> Drawing:
    return Drawing(**({"prompt": prompt, "seed": 1} | fields))


def pixels(drawn: Any) -> list[bytes]:
    return [image.tobytes() for image in drawn.images]


def is_there(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children() -> set[str]:
    """All processes of ours, the dead ones that nobody waited for too."""
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


def held() -> tuple[int, int, int, set[Path]]:
    """What this process holds: open files, children, threads that are not the executor's, folders."""
    num_files = sum(1 for _ in Path("/proc/self/fd").iterdir())
    num_threads = sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())
    return num_files, len(children()), num_threads, folders()


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("hbridge-*"))


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    before = folders(), children()
    with Running() as running:
        yield running.ready()
    assert (folders(), children()) == before


@pytest.fixture
def up(running: Running, wait_until: Callable[..., None]) -> Running:
    """The process that all tests share, in whatever life it is."""
    wait_until(lambda: running.client.state is State.READY, PATIENCE)
    running.counted.told.clear()
    return running


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A path; "hold" steps wait until it is there."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def test_a_child_makes_the_pipelines_pixels_and_words(up: Running) -> None:
    works = [
        drawing(n=2, size=Size(64, 48)),
        drawing("b", images=(NOISE, NOISE), seed=4, num_inference_steps=5),
        drawing("c", seed=7),
        Question(turns=(Turn("user", (NOISE, "what?")),), max_tokens=4),
    ]
    futures = [up.submit(work, num_previews=1) for work in works]
    for work, future in zip(works, futures, strict=True):
        last = future.result(PATIENCE)
        if isinstance(work, Question):
            assert last.result.text == answer(Toy(), work).text
        else:
            assert pixels(last.result) == pixels(draw(Toy(), work))
    assert up.counted.count("finished") == up.counted.count("waited") == 4
    assert up.counted.count("stepped", "denoise") >= 5
    assert up.client.is_idle


def test_errors_of_a_plan_cross_as_themselves(up: Running) -> None:
    with pytest.raises(UnsupportedSize, match="33x33") as refusal:
        up.submit(drawing(size=Size(33, 33))).result(PATIENCE)
    assert refusal.value.param == "size"
    with pytest.raises(PromptTooLong):
        up.submit(drawing("refuse")).result(PATIENCE)
    with pytest.raises(JobFailed) as fault:
        up.submit(drawing("fault")).result(PATIENCE)
    assert "secret" not in str(fault.value)
    assert up.client.state is State.READY


def test_who_leaves_frees_the_device_after_the_call_that_runs(
    up: Running, gate: Path, wait_until: Callable[..., None]
) -> None:
    leaver = up.submit(drawing(f"hold {gate}", num_inference_steps=500), tenant="ann")
    wait_until(gate.with_suffix(".held").exists, PATIENCE)
    wait_until(lambda: (up.client.num_running, up.client.num_waiting) == (1, 0), PATIENCE)
    leaver.cancel()
    wait_until(lambda: up.client.is_idle)
    gate.touch()
    up.submit(drawing()).result(PATIENCE)
    wait_until(lambda: up.counted.count("cancelled", "ann", "denoise") == 1)
    assert up.counted.count("stepped", "denoise") <= 1 + 2


def test_a_child_that_is_killed_takes_along_only_what_it_was_doing(
    up: Running, gate: Path, wait_until: Callable[..., None]
) -> None:
    once = up.submit(drawing(f"hold {gate}", num_inference_steps=3))
    wait_until(gate.with_suffix(".held").exists, PATIENCE)
    again = up.submit(drawing(f"hold {gate}", seed=5), is_repeatable=True)
    wait_until(lambda: up.client.num_waiting == 1)
    pid = up.pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineRestarting) as end:
        once.result(5)
    assert end.value.retry_after_seconds >= 1
    assert up.client.state is State.RESTARTING
    with pytest.raises(EngineRestarting):
        up.client.check_ready()
    gate.touch()
    wait_until(lambda: up.client.state is State.READY, PATIENCE)
    assert up.pid != pid
    assert up.counted.count("restarted") == 1
    assert pixels(again.result(PATIENCE).result) == pixels(draw(Toy(), drawing(f"hold {gate}", seed=5)))
    assert isinstance(up.submit(drawing()).result(PATIENCE), Finished)


def test_a_step_that_hangs_is_killed(wait_until: Callable[..., None], capfd: Any) -> None:
    with Running(WatchConfig(max_step_seconds=4, min_pause_seconds=60, max_pause_seconds=60)) as running:
        hung = running.ready().submit(drawing("hang"))
        again = running.submit(drawing("hang", seed=2), is_repeatable=True)
        with pytest.raises(EngineRestarting):
            hung.result(PATIENCE)
        assert running.client.state is State.RESTARTING
        wait_until(lambda: not is_there(running.pid))
        assert not again.done()
    with pytest.raises(EngineDraining):
        again.result(PATIENCE)
    assert "in velocity" in capfd.readouterr().err


def test_a_drain_lets_jobs_finish_and_a_stop_cuts_off_the_rest(
    gate: Path, wait_until: Callable[..., None]
) -> None:
    with Running() as running:
        finishing = running.ready().submit(drawing(f"hold {gate}"))
        wait_until(lambda: running.client.num_running == 1, PATIENCE)
        running.client.drain()
        with pytest.raises(EngineDraining):
            running.submit(drawing()).result(PATIENCE)
        gate.touch()
        assert isinstance(finishing.result(PATIENCE), Finished)
        assert running.client.is_idle
        pid = running.pid
    assert not is_there(pid)


@pytest.mark.slow
def test_a_stop_waits_for_no_call_that_does_not_end() -> None:
    with Running(WatchConfig(max_stop_seconds=0.5)) as running:
        hung = running.ready().submit(drawing("hang"), is_repeatable=True)
    with pytest.raises(EngineDraining):
        hung.result(0)


def test_what_cannot_start_the_first_time_says_why() -> None:
    with Running(load=fail_to_load) as running:
        with pytest.raises(PromptTooLong, match="nothing to load"):
            running.ready()
        assert running.client.state is State.FAILED


def test_a_child_ends_with_its_parent(tmp_path: Path, wait_until: Callable[..., None]) -> None:
    code = (
        "import sys, asyncio, functools; from service.engine.engine import EngineConfig\n"
        "from service.engine.process import EngineProcess; from tests.service.engine import toy\n"
        "load = functools.partial(toy.load_for_ever, sys.argv[1])\n"
        "asyncio.run(EngineProcess(load, EngineConfig()).start())"
    )
    path, before = tmp_path / "pid", folders()
    with subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT) as parent:
        wait_until(path.exists, PATIENCE)
        child = int(path.read_text())
        assert is_there(child)
        parent.kill()
    wait_until(lambda: not is_there(child), 10)
    assert folders() == before


@pytest.mark.slow
def test_a_job_that_ends_every_engine_is_not_run_for_ever(
    up: Running, wait_until: Callable[..., None]
) -> None:
    with pytest.raises(EngineRestarting):
        up.submit(drawing("crash"), is_repeatable=True).result(PATIENCE)
    wait_until(lambda: up.client.state is State.READY, PATIENCE)
    assert up.counted.count("restarted") == 1 + WATCH.max_repeats


@pytest.mark.slow
def test_a_load_that_hangs_is_given_up(tmp_path: Path) -> None:
    load = partial(load_for_ever, str(tmp_path / "pid"))
    with (
        Running(WatchConfig(max_load_seconds=10), load) as running,
        pytest.raises(EngineNotReady, match="hung"),
    ):
        running.ready()


@pytest.mark.slow
def test_many_ends_leave_nothing_behind(up: Running, gate: Path, wait_until: Callable[..., None]) -> None:
    def kill() -> None:
        wait_until(lambda: up.client.state is State.READY, PATIENCE)
        once, again = up.submit(drawing(f"hold {gate}")), up.submit(drawing(), is_repeatable=True)
        wait_until(lambda: up.client.num_running > 0, PATIENCE)
        os.kill(up.pid, signal.SIGKILL)
        with pytest.raises(EngineRestarting):
            once.result(PATIENCE)
        assert isinstance(again.result(PATIENCE), Finished)

    kill()
    wait_until(lambda: up.client.state is State.READY, PATIENCE)
    before = held()
    for _ in range(20):
        kill()
    wait_until(lambda: up.client.state is State.READY, PATIENCE)
    assert held() == before
