"""The bare pipeline in a process of its own, for comparison with a server, and work on a thread that ends.

On a processor, two threads of one process that both compute in parallel slow each other down even when they
take turns: OpenMP's teams outnumber the cores.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TypeVar

from benchmarks.workload import Work, perform
from service.loading import load_model
from service.settings import Settings

Result = TypeVar("Result")
Bare = Callable[[Work], object]
"""Performs a request with the bare pipeline and waits for it."""


def aside(work: Callable[[], Result]) -> Result:
    """Run on a thread that ends, and its OpenMP team with it."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


@contextmanager
def pipeline(settings: Settings) -> Iterator[Bare]:
    """Start a process that performs what it is sent."""
    context = multiprocessing.get_context("spawn")
    line, its = context.Pipe()
    process = context.Process(target=serve, args=(its, settings), daemon=True)
    process.start()

    def run(work: Work) -> object:
        line.send(work)
        return line.recv()

    try:
        yield run
    finally:
        process.terminate()
        process.join()


def serve(line: Connection, settings: Settings) -> None:
    """Perform works as they come, for ever."""
    family = load_model(settings).family
    while True:
        perform(family, line.recv())
        line.send(None)
