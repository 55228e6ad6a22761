"""Who may come in, who may begin, and when each job is expected to end: no tensors, no threads."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from time import perf_counter

from service.engine.cost import CostModel, Load, Stage
from service.engine.course import Course
from service.engine.errors import DeadlineUnreachable, EngineBusy, InsufficientMemory
from service.engine.job import Job
from service.engine.memory import MemoryModel, held_and_needed
from service.engine.scheduler import Flow, Forecast, SchedulerConfig, Standing, Step
from service.engine.ticket import Ticket

HELD_SHARE = 0.5
"""Of the memory beside the weights, what jobs that have begun may hold between steps."""
SURE = 0.9
"""Of an expected cost, what a deadline is held against: predictions of a step are off by some percent."""


class Admission:
    """Looks at all jobs between submission and end; the engine calls it under its lock.

    Attributes:
        packing: What a packed step takes of what its jobs' steps would take one by one.
        under_way: The step on the device and when it began; None between steps.
    """

    def __init__(
        self,
        tickets: Mapping[str, Ticket],
        *,
        costs: CostModel,
        memory: MemoryModel,
        scheduling: SchedulerConfig,
        max_waiting: int,
        max_running: int,
        max_bytes: int,
    ) -> None:
        """Look at nothing yet.

        Args:
            tickets: All jobs by id, in the order in which they came; the engine changes it.
            costs: Say what steps take.
            memory: Says what steps take of memory.
            scheduling: How flows share the device.
            max_waiting: Jobs that may wait beside those that run.
            max_running: Drawings that may have begun; and as many answers.
            max_bytes: Memory for contexts and steps.
        """
        self._tickets, self._costs, self._memory = tickets, costs, memory
        self._scheduling, self._max_waiting, self._max_running = scheduling, max_waiting, max_running
        self._max_bytes = max_bytes
        self.packing = 1.0
        self.under_way: tuple[Step, float] | None = None

    @property
    def num_waiting(self) -> int:
        """Jobs that have not begun."""
        return sum(not ticket.has_begun for ticket in list(self._tickets.values()))

    @property
    def step_seconds(self) -> float:
        """How long the step on the device has taken so far; 0 between steps."""
        under_way = self.under_way
        return perf_counter() - under_way[1] if under_way else 0.0

    @property
    def queued_device_seconds(self) -> float:
        """All that is still to come, packed as now."""
        return self.packing * sum(ticket.needed_seconds for ticket in list(self._tickets.values()))

    @property
    def _busy_seconds(self) -> float:
        under_way = self.under_way
        return max(0.0, under_way[0].seconds - self.step_seconds) if under_way else 0.0

    def seconds(self, work: Sequence[tuple[Stage, Load, int]]) -> float:
        """Return the device-seconds that pieces of work take, one after another and each alone."""
        return sum(self._costs.seconds(stage, load) * count for stage, load, count in work)

    def expected_seconds(self, standing: Standing, needed: float) -> float:
        """Return when a job is expected to end, if nobody comes after it.

        Of its own flow all that is due before it goes before it, and what has no deadline goes beside it, so
        that the shorter of two is done first. Packing is taken to go on saving what it saves now.
        """
        remaining: dict[Flow, float] = {}
        for other in self._tickets.values():
            flow, seconds = other.standing.flow, other.needed_seconds
            if other.standing is standing:
                continue
            if flow == standing.flow and not _is_due_before(other.standing, standing):
                seconds = 0.0 if standing.deadline else min(seconds, needed)
            remaining[flow] = remaining.get(flow, 0.0) + self.packing * seconds
        forecast = Forecast(config=self._scheduling, remaining=remaining, busy_seconds=self._busy_seconds)
        return forecast.finish_seconds(standing.flow, needed)

    def check_memory(self, course: Course) -> int:
        """Return what a job will hold between steps at most.

        Raises:
            InsufficientMemory: Even alone it does not fit.
        """
        peaks = {stage: self._memory.bytes(stage, load) for stage, load, _ in course.remaining}
        held, needed = held_and_needed(peaks)
        if needed > self._max_bytes:
            raise InsufficientMemory(
                f"this needs about {needed / 2**20:.0f} MiB beside the weights, there are "
                f"{self._max_bytes / 2**20:.0f}; ask for smaller or fewer pictures, or a shorter prompt"
            )
        return held

    def fits(self, stage: Stage, load: Load) -> bool:
        """Say whether a packed step fits beside what running jobs hold."""
        held = sum(ticket.held_bytes for ticket in self._tickets.values() if ticket.has_begun)
        return held + self._memory.bytes(stage, load) <= self._max_bytes

    def check_room(self, job: Job) -> None:
        """Refuse a job that would have to wait where as many wait as may.

        Raises:
            EngineBusy: Says when to come again.
        """
        eligible = self.eligible()
        beside = sum(each.job.is_question == job.is_question for each in eligible)
        if beside < self._max_running or len(self._tickets) - len(eligible) < self._max_waiting:
            return
        soonest = min(self.expected_seconds(each.standing, each.needed_seconds) for each in eligible)
        wait = max(1, math.ceil(soonest))
        raise EngineBusy(
            f"{self.num_waiting} jobs are waiting, which is all that may; try again in about {wait} s",
            retry_after_seconds=wait,
        )

    def check_deadline(self, job: Job, standing: Standing, least: float) -> None:
        """Refuse a job that cannot be done in time.

        Args:
            job: What is asked.
            standing: What it would be to the scheduler.
            least: Device-seconds that nothing can spare it.

        Raises:
            DeadlineUnreachable: Says when it would be done.
        """
        if job.deadline_seconds is None:
            return
        expected = SURE * self.expected_seconds(standing, least)
        if expected > job.deadline_seconds:
            raise DeadlineUnreachable(
                f"this is done in {expected * 1000:.0f} ms at the soonest, deadline_ms allows "
                f"{job.deadline_seconds * 1000:.0f}; allow more, ask for less or come later",
                retry_after_seconds=max(1, math.ceil(expected - job.deadline_seconds)),
            )

    def eligible(self) -> list[Ticket]:
        """Return all that have begun, and of the waiting as many as may begin, each flow its part.

        Drawings and answers have places of their own, so that a question is read while pictures wait.
        """
        eligible = [ticket for ticket in self._tickets.values() if ticket.has_begun]
        if len(eligible) == len(self._tickets):
            return eligible
        waiting = [ticket for ticket in self._tickets.values() if not ticket.has_begun]
        running = Counter(ticket.job.is_question for ticket in eligible)
        counts = Counter(ticket.standing.flow for ticket in eligible)
        weight = self._scheduling.weight
        held = sum(ticket.held_bytes for ticket in eligible)
        while waiting := [each for each in waiting if running[each.job.is_question] < self._max_running]:
            first = min(waiting, key=lambda each: counts[each.standing.flow] / weight(each.standing.flow))
            held += first.held_bytes
            if eligible and held > HELD_SHARE * self._max_bytes:
                break
            counts[first.standing.flow] += 1
            running[first.job.is_question] += 1
            waiting.remove(first)
            eligible.append(first)
        return eligible


def _is_due_before(one: Standing, other: Standing) -> bool:
    """Say whether one has the earlier deadline."""
    return one.deadline is not None and (other.deadline is None or one.deadline <= other.deadline)
