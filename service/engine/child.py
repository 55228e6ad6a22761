"""The engine's own process, seen from inside: an inline engine at the end of a line.

Loads what the first message says, then takes jobs in and tells what becomes of them. Ends when it is told to,
when the engine's thread has died, and when nobody is left to work for.
"""

import asyncio
import ctypes
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections import deque
from functools import partial
from typing import Any, Literal

import zmq.asyncio

from model.errors import ModelError
from service.engine.cost import Load, Stage
from service.engine.engine import Engine
from service.engine.errors import EngineError, JobFailed
from service.engine.inline import InlineEngine
from service.engine.job import Event, Failed, Finished, Job
from service.engine.observer import Observer
from service.engine.peer import Peer, encode
from service.engine.scheduler import Priority

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.25
PR_SET_PDEATHSIG = 1


class Child:
    """Serves one line: jobs in, events out.

    Args:
        host: The engine behind it; `run` starts it.
    """

    def __init__(self, peer: Peer, host: InlineEngine) -> None:
        self._peer = peer
        self._host = host
        self._reporter = Reporter()
        self._entering: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Bring the engine up, then work until told to stop or until the engine's thread has died."""
        self._host.watch(self._reporter)
        try:
            await self._host.start()
        except Exception as error:
            self.tell("failed", portable(error))
            await asyncio.Event().wait()  # to be killed by who has read it
        assert self._host.engine, "a host that has started has an engine"
        self.tell("ready", self._host.card)
        work = [asyncio.create_task(each) for each in (self._listen(), self._beat(self._host.engine))]
        done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        for task in work:
            task.cancel()
        await self._host.stop()
        done.pop().result()

    def tell(self, *message: Any) -> None:
        """Send a message."""
        self._peer.send(encode(message))

    async def _listen(self) -> None:
        while True:
            match await self._peer.receive():
                case "submit", job:
                    self._entering[job.id] = asyncio.create_task(self._enter(job))
                case "cancel", job_id:
                    if entering := self._entering.pop(job_id, None):
                        entering.cancel()
                    self._host.cancel(job_id)
                case ("stop",):
                    return

    async def _enter(self, job: Job) -> None:
        try:
            await self._host.submit(job, partial(self._tell_event, job))
        except Exception as error:
            self._tell_event(job, Failed(error=portable(error, job.id)))
        finally:
            self._entering.pop(job.id, None)

    def _tell_event(self, job: Job, event: Event) -> None:
        if isinstance(event, Finished | Failed):
            self._tell_observed()
        self.tell("event", job.id, job.tenant, event)

    def _tell_observed(self) -> None:
        if observed := self._reporter.take():
            self.tell("observed", observed)

    async def _beat(self, engine: Engine) -> None:
        """Say how long the present step has taken and what there is to do, as long as the engine lives."""
        while engine.is_alive:
            self._tell_observed()
            self.tell("beat", engine.step_seconds, engine.status)
            await asyncio.sleep(BEAT_SECONDS)
        log.error("the engine's thread has died")


class Reporter(Observer):
    """Keeps what the engine's thread saw until it is sent, so that the other end can count.

    What finishes, and what is restarted, is counted there anyway.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[str, tuple[Any, ...]]] = deque()

    def take(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Return what was seen since the last time: names of an observer's methods, and what to give them."""
        return [self._seen.popleft() for _ in range(len(self._seen))]

    def waited(self, priority: Priority, seconds: float) -> None:
        """Keep that a job left the queue for the device."""
        self._seen.append(("waited", (priority, seconds)))

    def stepped(self, stage: Stage, load: Load, seconds: float) -> None:
        """Keep that there was a packed step."""
        self._seen.append(("stepped", (stage, load, seconds)))

    def computed(self, flops: int, seconds: float) -> None:
        """Keep what a packed step computed."""
        self._seen.append(("computed", (flops, seconds)))

    def prefilled(self, num_prompts: int, num_hits: int) -> None:
        """Keep that prompts were asked for."""
        self._seen.append(("prefilled", (num_prompts, num_hits)))

    def came_first(self, what: Literal["token", "preview"], seconds: float) -> None:
        """Keep the first that a job showed."""
        self._seen.append(("came_first", (what, seconds)))

    def missed_deadline(self) -> None:
        """Keep that a job was cut off at its deadline."""
        self._seen.append(("missed_deadline", ()))

    def fell_back(self, reason: str, count: int) -> None:
        """Keep that stacks were computed as they are."""
        self._seen.append(("fell_back", (reason, count)))

    def cancelled(self, tenant: str, stage: str, wasted_seconds: float) -> None:
        """Keep that a job was cancelled."""
        self._seen.append(("cancelled", (tenant, stage, wasted_seconds)))


def portable(error: Exception, job_id: str = "") -> Exception:
    """Return an error that may cross: those that callers know as they are, all others as a fault of ours."""
    if isinstance(error, ModelError | EngineError):
        return error
    log.error("the engine failed", exc_info=error, extra={"job": job_id} if job_id else {})
    return JobFailed("internal error")


async def serve(address: str) -> None:
    """Go to who waits at an address and work for them."""
    with zmq.asyncio.Context() as context, Peer(context) as peer:
        peer.connect(address)
        load, config = await peer.receive()
        await Child(peer, InlineEngine(load, config)).run()


def end_with_parent() -> None:
    """Let this process end as soon as its parent has, whose end closes standard input."""
    if sys.platform == "linux":
        # Even when the interpreter is stuck in a call that keeps its lock.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_end_at_end_of_input, name="parent", daemon=True).start()


def _end_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def main(address: str) -> None:
    """Be the engine's process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # They may come to all processes of a unit; the parent drains, then says stop.
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    end_with_parent()
    asyncio.run(serve(address))
