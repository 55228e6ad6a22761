"""What the engine knows of a job from its submission to its last event."""

from dataclasses import dataclass

from service.engine.course import Course
from service.engine.job import Emit, Event, Job
from service.engine.scheduler import Standing
from service.engine.stopwatch import Stopwatch


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """A job between submission and its last event.

    Attributes:
        needed_seconds: Device-seconds still to come, as far as costs are known.
        held_bytes: Memory that it holds between steps, once it has begun; at most.
        has_shown: Whether its first token or preview was told.
        end: Its last event, once that is known.
    """

    job: Job
    emit: Emit
    course: Course
    standing: Standing
    needed_seconds: float
    held_bytes: int
    watch: Stopwatch
    has_shown: bool = False
    is_cancelled: bool = False
    end: Event | None = None

    @property
    def has_begun(self) -> bool:
        """Whether it left the queue."""
        return self.watch.stage != "queue"
