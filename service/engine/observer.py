"""What there is to count of an engine."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from model.drawing import Drawn
from model.question import Answered
from service.engine.cost import Load, Stage
from service.engine.job import Job, Timings
from service.engine.scheduler import Priority


class Observer:
    """Who counts what the engine does: nothing, but for what is overridden.

    Called on one thread, the engine's or the event loop's.
    """

    def waited(self, priority: Priority, seconds: float) -> None:
        """Take note of a job that leaves the queue for the device."""

    def stepped(self, stage: Stage, load: Load, seconds: float) -> None:
        """Take note of a packed step."""

    def computed(self, flops: int, seconds: float) -> None:
        """Take note of the floating-point operations of a packed step."""

    def prefilled(self, num_prompts: int, num_hits: int) -> None:
        """Take note of prompts that were asked for, and of how many of them nothing had to be read."""

    def came_first(self, what: Literal["token", "preview"], seconds: float) -> None:
        """Take note of the first that a job showed, so long after it came in."""

    def missed_deadline(self) -> None:
        """Take note of a job that was cut off at its deadline."""

    def fell_back(self, reason: str, count: int) -> None:
        """Take note of stacks that were computed as they are, because no prepared size fits."""

    def finished(self, job: Job, result: Drawn | Answered, timings: Timings) -> None:
        """Take note of a job that went well."""

    def cancelled(self, tenant: str, stage: str, wasted_seconds: float) -> None:
        """Take note of a job that was cancelled, whose, where, and of the work that was for nothing."""

    def restarted(self) -> None:
        """Take note of an engine that ended by itself and is started again."""


class Observers(Observer):
    """Several who count the same."""

    def __init__(self, *observers: Observer) -> None:
        for name in vars(Observer):
            if not name.startswith("_"):
                setattr(self, name, partial(_tell, [getattr(each, name) for each in observers]))


def _tell(listeners: list[Callable[..., None]], *values: Any) -> None:
    for listener in listeners:
        listener(*values)
