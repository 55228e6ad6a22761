"""A real engine process with a follower process for its second device, both on the CPU."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import torch
from PIL import Image

from model.drawing import Drawing, Drawn
from model.errors import ModelError
from model.pipeline import draw
from service.engine.client import Client, State
from service.engine.errors import EngineError
from service.engine.job import Finished, Job
from service.loading import create_client, load_model
from service.settings import Settings

pytestmark = pytest.mark.timeout(300)


def processes(pid: int) -> list[int]:
    """The processes that a process has started, and theirs, in the order of their start."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    own = [int(each) for task in tasks for each in (task / "children").read_text().split()]
    return sorted({*own, *(below for each in own for below in processes(each))})


def leftovers() -> tuple[set[Path], list[int]]:
    """What would stay behind: folders, and processes of ours."""
    return set(Path(tempfile.gettempdir()).glob("hbridge-*")), processes(os.getpid())


@asynccontextmanager
async def two_devices(model_folder: Path, cache: Path) -> AsyncIterator[Client]:
    settings = Settings(model=str(model_folder), devices=2, num_threads=1, cache_dir=cache)
    client = create_client(settings)
    await client.start()
    try:
        await client.ready()
        yield client
    finally:
        await client.stop()


async def finish(client: Client, drawing: Drawing) -> Drawn:
    events = [event async for event in client.submit(Job(id="job", work=drawing))]
    return cast(Drawn, cast(Finished, events[-1]).result)


def pixels(drawn: Drawn) -> torch.Tensor:
    return torch.tensor([list(image.tobytes()) for image in drawn.images])


async def wait_for(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def check(model_folder: Path) -> Callable[[Client], Awaitable[None]]:
    """Assert that an engine draws what the pipeline does on one device."""
    family = load_model(Settings(model=str(model_folder))).family
    picture = Image.effect_noise((48, 32), 60).convert("RGB")
    common = {"seed": 1, "num_inference_steps": 3, "guidance_scale": 3.0}
    drawings = [
        Drawing(prompt="a square", **common),
        Drawing(prompt="a circle", images=(picture,), image_guidance_scale=2.0, **common),
    ]
    alone = [pixels(draw(family, drawing)) for drawing in drawings]

    async def check(client: Client) -> None:
        for drawing, expected in zip(drawings, alone, strict=True):
            torch.testing.assert_close(pixels(await finish(client, drawing)), expected, rtol=0, atol=1)

    return check


def test_two_devices_draw_what_one_does(
    model_folder: Path, tmp_path: Path, check: Callable[[Client], Awaitable[None]]
) -> None:
    before = leftovers()

    async def run() -> None:
        async with two_devices(model_folder, tmp_path) as client:
            assert client.card.environment.num_devices == 2
            await check(client)

    asyncio.run(run())
    assert leftovers() == before


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["leader", "follower"])
def test_they_come_back_when_one_is_lost(
    victim: str, model_folder: Path, tmp_path: Path, check: Callable[[Client], Awaitable[None]]
) -> None:
    before = leftovers()

    def started() -> list[int]:
        return [pid for pid in processes(os.getpid()) if pid not in before[1]]

    async def run() -> None:
        async with two_devices(model_folder, tmp_path) as client:
            lost = started()[victim == "follower"]
            os.kill(lost, signal.SIGKILL)
            await asyncio.wait_for(wait_for(lambda: client.state is State.RESTARTING), 60)
            await asyncio.wait_for(wait_for(lambda: client.state is State.READY), 120)
            assert len(started()) == 2
            assert lost not in started()
            await check(client)

    asyncio.run(run())
    assert leftovers() == before


def test_a_follower_that_cannot_load_ends_the_start(model_folder: Path, tmp_path: Path) -> None:
    before = leftovers()

    async def run() -> None:
        async with two_devices(model_folder / "none", tmp_path):
            pass

    with pytest.raises((ModelError, EngineError)):
        asyncio.run(run())
    assert leftovers() == before
