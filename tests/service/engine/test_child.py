import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq.asyncio

from model.drawing import Drawing
from model.errors import MissingCapability
from service.engine.child import Child, portable
from service.engine.engine import EngineConfig
from service.engine.errors import EngineBusy, JobFailed
from service.engine.inline import InlineEngine
from service.engine.job import Finished, Job, LoadedModel
from service.engine.peer import Peer, encode

JOB = Job(id="a", work=Drawing(prompt="a", num_inference_steps=2))


def talk(folder: Path, model: LoadedModel, ask: Callable[[Peer], Awaitable[None]]) -> None:
    """Let a child work in this process, and ask it something once it is ready."""

    async def walk() -> None:
        with zmq.asyncio.Context() as context, Peer(context) as mine, Peer(context) as its:
            mine.bind(f"ipc://{folder}/line")
            its.connect(f"ipc://{folder}/line")
            working = asyncio.create_task(Child(its, InlineEngine(lambda: model, EngineConfig())).run())
            assert await mine.receive() == ("ready", model.card)
            await ask(mine)
            await asyncio.wait_for(working, 20)

    asyncio.run(walk())


async def heard(peer: Peer) -> tuple[str, Any]:
    """Return the next event and which job's it is."""
    while (message := await asyncio.wait_for(peer.receive(), 20))[0] != "event":
        pass
    _, job_id, _, event = message
    return job_id, event


async def admitted(peer: Peer) -> str:
    """Return who is admitted next."""
    while getattr((told := await heard(peer))[1], "stage", "") != "queue":
        pass
    return told[0]


def test_a_job_is_admitted_and_told_until_it_has_finished(tmp_path: Path, loaded: LoadedModel) -> None:
    async def ask(peer: Peer) -> None:
        peer.send(encode(("submit", JOB)))
        stages = []
        while not isinstance(event := (await heard(peer))[1], Finished):
            stages.append(event.stage)
        assert list(dict.fromkeys(stages)) == ["queue", "prefill", "denoise", "decode"]
        assert event.result.images
        peer.send(encode(("stop",)))

    talk(tmp_path, loaded, ask)


@pytest.fixture
def slow(gated: Any) -> Iterator[threading.Event]:
    """Hold the planning of prompts with "slow" in them until this is set."""
    go_on, prepare = threading.Event(), gated.prepare

    def prepare_slowly(prompt: Any) -> Any:
        assert "slow" not in str(prompt) or go_on.wait(20)
        return prepare(prompt)

    gated.prepare = prepare_slowly
    yield go_on
    go_on.set()


SLOW = Job(id="slow", work=Drawing(prompt="slow", num_inference_steps=1))


def test_a_job_cancelled_while_it_is_planned_is_never_admitted(
    tmp_path: Path, gated_model: LoadedModel, slow: threading.Event
) -> None:
    async def ask(peer: Peer) -> None:
        for message in (("submit", SLOW), ("cancel", "slow"), ("submit", JOB)):
            peer.send(encode(message))
        assert await admitted(peer) == "a"
        slow.set()
        peer.send(encode(("submit", replace(JOB, id="b"))))
        assert await admitted(peer) == "b"
        peer.send(encode(("stop",)))

    talk(tmp_path, gated_model, ask)


def test_a_long_plan_delays_nobody(tmp_path: Path, gated_model: LoadedModel, slow: threading.Event) -> None:
    async def ask(peer: Peer) -> None:
        for job in (SLOW, JOB):
            peer.send(encode(("submit", job)))
        while not isinstance((told := await heard(peer))[1], Finished):
            assert told[0] == "a"
        slow.set()
        assert await admitted(peer) == "slow"
        peer.send(encode(("stop",)))

    talk(tmp_path, gated_model, ask)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_child_ends_when_the_engines_thread_has_died(
    tmp_path: Path, gated_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("a fault of the engine's own")

    async def ask(peer: Peer) -> None:
        monkeypatch.setattr("service.engine.engine.Engine._run", fail)
        peer.send(encode(("submit", JOB)))

    talk(tmp_path, gated_model, ask)


def test_only_what_callers_know_crosses() -> None:
    for known in (MissingCapability("a"), EngineBusy("b", retry_after_seconds=3)):
        assert portable(known) is known
    told = portable(KeyError("secret words"))
    assert type(told) is JobFailed
    assert "secret" not in str(told)
