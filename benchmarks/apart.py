"""The bare pipeline and the engine, each in a process of its own that computes on one thread.

On a processor, two threads of one process that both compute in parallel slow each other down even when they
take turns: OpenMP's teams outnumber the cores. So what is compared runs apart, and one waits while the other
works.
"""

import asyncio
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Protocol, Self, TypeVar

from benchmarks.driver import to_job
from benchmarks.workload import Work, perform
from service.engine.engine import EngineConfig
from service.engine.inline import InlineEngine
from service.engine.job import Timings
from service.loading import load_model
from service.settings import Settings


class Side(Protocol):
    """What performs work, one way or another."""

    def run(self, *works: Work, together: bool = False) -> list[Timings]:
        """Perform works one by one or together, wait for them, and return what an engine says of them."""
        ...


class Apart:
    """A process that performs work when it is asked to, and says how long that took.

    Args:
        serve: What the process does with its end of the line.
    """

    def __init__(self, serve: Callable[[Connection, Settings], None], settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, its = context.Pipe()
        self._process = context.Process(target=serve, args=(its, settings), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()

    def run(self, *works: Work, together: bool = False) -> list[Timings]:
        """Perform works one by one or together; the pipeline knows no together and says nothing of them."""
        self._line.send((works, together))
        timings: list[Timings] = self._line.recv()
        return timings


Result = TypeVar("Result")


def aside(work: Callable[[], Result]) -> Result:
    """Run on a thread that ends, and its OpenMP team with it."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def pipeline(settings: Settings) -> Apart:
    """Return the bare pipeline, apart."""
    return Apart(serve_pipeline, settings)


def engine(settings: Settings) -> Apart:
    """Return an engine that keeps no contexts, apart."""
    return Apart(serve_engine, settings)


def serve_pipeline(line: Connection, settings: Settings) -> None:
    """Perform works with the bare pipeline, whatever is asked."""
    family = load_model(settings).family
    while True:
        works, _ = line.recv()
        for work in works:
            perform(family, work)
        line.send([])


def serve_engine(line: Connection, settings: Settings) -> None:
    """Perform works in an engine."""
    asyncio.run(_serve_engine(line, settings))


async def _serve_engine(line: Connection, settings: Settings) -> None:
    host = InlineEngine(partial(load_model, settings), EngineConfig(max_cache_bytes=0))
    await host.start()
    while True:
        works, together = await asyncio.to_thread(line.recv)
        chunks = [works] if together else [[work] for work in works]
        timings: list[Timings] = []
        for chunk in chunks:
            ended = await asyncio.gather(*(host.finish(to_job(work)) for work in chunk))
            timings += [each.timings for each in ended]
        line.send(timings)
