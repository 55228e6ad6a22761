"""Who runs in the next step: weighted fair sharing of device-seconds, in plain data.

Knows no tensors, no clock and no thread: what jobs want, the time and what a step took are told.

A *job* has a standing, and at any moment a want, or none while it waits for somebody. A *flow* is who has a
share of the device: a tenant's jobs of one priority.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Literal, get_args

from service.engine.cost import CostModel, Load, Stage

Priority = Literal["interactive", "batch"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)

ROUND: tuple[Stage, ...] = ("prefill", "decode", "answer", "prefill", "denoise")
MAX_BILLS = 4
BILL_DECAY = 0.99


def _priority_weights() -> dict[Priority, float]:
    return {"interactive": 4.0, "batch": 1.0}


@dataclass(frozen=True, slots=True)
class Flow:
    """Who has a share of the device.

    Attributes:
        weight: The tenant's, as the job that is asked about brought it; multiplies the priority's.
    """

    tenant: str
    priority: Priority
    weight: float = field(default=1.0, compare=False)

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight {self.weight} must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """How jobs share the device. Nothing here changes a result.

    Attributes:
        max_tokens: Packed into one step, unless one job alone has more.
        max_rows: Packed into one step, unless one job alone has more.
        min_gain: The part of its cost alone that packing a job must save.
        short_share: Time for answers between two denoise steps, and for a step of another short stage that
            packing does not make cheaper, as a part of the denoise step before.
        ageing_seconds: Who was not served for so long leads a step; one job in as many seconds.
    """

    priority_weights: Mapping[Priority, float] = field(default_factory=_priority_weights)
    max_tokens: int = 16384
    max_rows: int = 64
    min_gain: float = 0.05
    short_share: float = 0.2
    ageing_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not all(weight > 0 for weight in self.priority_weights.values()):
            raise ValueError("a weight must be above 0")
        if self.max_rows < 1:
            raise ValueError(f"max_rows {self.max_rows} must be above 0")

    def weight(self, flow: Flow) -> float:
        """Return the share of a flow, relative to the others'."""
        return self.priority_weights[flow.priority] * flow.weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a job is to the scheduler, from its admission to its end.

    Attributes:
        flow: Whose share it uses.
        deadline: When it must be done, in monotonic seconds as all times here.
    """

    job_id: str
    flow: Flow
    arrived: float
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a job could do now."""

    job_id: str
    stage: Stage
    load: Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One unit of device work.

    Attributes:
        standings: Who is in it, in order.
        shares: The part of its time that each of them is billed; together 1.
        seconds: What it is expected to take.
    """

    stage: Stage
    standings: tuple[Standing, ...]
    shares: tuple[float, ...]
    load: Load
    seconds: float

    @property
    def job_ids(self) -> tuple[str, ...]:
        """Who is in it, in order."""
        return tuple(standing.job_id for standing in self.standings)


@dataclass(slots=True)
class Account:
    """A flow's virtual time in a stage: device-seconds by its weight; and the longest of its late bills."""

    time: float = 0.0
    bill: float = 0.0


class Clock:
    """The virtual times of the flows that share one stage; the least goes first.

    Who comes to a stage starts at the least of those who are there: it is served soon, and saves no idle
    time. Who is there falls a few bills behind the foremost at most: a flow that has no use for all its share
    saves nothing either, and those who use what it leaves do not have to make up for it. Who left is known as
    long as it is ahead, so that leaving and coming back pays no bill.

    Source: Demers, Keshav and Shenker 1989, "Analysis and simulation of a fair queueing algorithm".
    """

    def __init__(self) -> None:
        self._accounts: dict[Flow, Account] = {}

    def open(self, flows: Set[Flow]) -> dict[Flow, float]:
        """Return the virtual times of the flows that want this stage now."""
        here = [self._accounts[flow] for flow in flows if flow in self._accounts]
        foremost = max((account.time for account in here or self._accounts.values()), default=0.0)
        credit = MAX_BILLS * max((account.bill for account in here), default=0.0)
        least = max(foremost - credit, min((account.time for account in here), default=foremost))
        for flow in flows:
            account = self._accounts.setdefault(flow, Account())
            account.time = max(account.time, least)
        self._accounts = {
            flow: account for flow, account in self._accounts.items() if flow in flows or account.time > least
        }
        return {flow: self._accounts[flow].time for flow in flows}

    def charge(self, flow: Flow, rate: float) -> None:
        """Bill a flow, if it is known, so many seconds by its weight."""
        if account := self._accounts.get(flow):
            account.time += rate
            account.bill = max(rate, BILL_DECAY * account.bill)


class Scheduler:
    """Chooses who runs in the next step.

    **Stages** take turns in rounds: prefill, decode, answer, prefill, denoise, one step each, and a stage
    that nobody wants is skipped. Who comes during the first three is read before the long one. Answers alone
    may take several steps of a round, while these together stay within `short_share` of the last denoise
    step's time. So what is small waits for one denoise step at most, and denoise for one round of the others.

    **Flows** share each stage by weight. While anybody wants to denoise, the other stages are billed there
    too, because that is where most of the device is shared out. A stage that nobody wants forgets its clock.

    **Jobs** of a flow go by their deadline, then by who was served, or arrived, longest ago: for new ones
    that is the order of arrival, for running ones it is taking turns. Who was served more than
    `ageing_seconds` ago leads a step whatever its flow and deadline, the oldest first. But only one job in so
    many seconds does: when there is too much to do everybody is old, and weights should still count.

    **A step** is filled in this order, each job taken moving its flow back by its expected seconds. A job
    joins when that saves `min_gain` of its cost alone, or delays nobody for long: a step of another stage
    than denoise may last `short_share` of the last denoise step. And the caps hold, and `fits` says that
    there is memory. Else it is passed over, and no flow with a later virtual time overtakes it, so that it
    leads soon. The first always runs.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        cost: CostModel,
        *,
        fits: Callable[[Stage, Load], bool] | None = None,
    ) -> None:
        self._config = config
        self._cost = cost
        self._has_room = fits
        self._standings: dict[str, Standing] = {}
        self._served: dict[str, float] = {}
        self._clocks: dict[Stage, Clock] = {}
        self._turn = 0
        self._short_seconds = 0.0
        self._answer_seconds = 0.0
        self._rescued = -math.inf

    def add(self, standing: Standing) -> None:
        """Take a job in; it runs when it wants to."""
        self._standings[standing.job_id] = standing
        self._served[standing.job_id] = standing.arrived

    def remove(self, job_id: str) -> None:
        """Forget a job, even while a step with it runs; unknown ids are left."""
        self._standings.pop(job_id, None)
        self._served.pop(job_id, None)

    def choose(self, wants: Iterable[Want], now: float) -> Step | None:
        """Return the next step, and pass the turn; None when nobody wants anything.

        Args:
            wants: One for each job that could run now; all of them were added.
        """
        wanted: defaultdict[Stage, list[Want]] = defaultdict(list)
        for want in wants:
            wanted[want.stage].append(want)
        self._clocks = {stage: self._clocks.get(stage) or Clock() for stage in wanted}
        for place in (*range(self._turn, len(ROUND)), *range(self._turn)):
            if (stage := ROUND[place]) in wanted:
                self._turn = (place + 1) % len(ROUND)
                return self._fill(stage, wanted[stage], now)
        return None

    def charge(self, step: Step, seconds: float, now: float) -> None:
        """Bill a step that ran to the flows that were in it, be their jobs gone meanwhile or not."""
        if step.stage == "denoise":
            self._short_seconds = self._answer_seconds = self._config.short_share * seconds
        elif step.stage == "answer":
            self._answer_seconds -= seconds
            if self._answer_seconds > seconds:
                self._turn = ROUND.index("answer")
        rates: defaultdict[Flow, float] = defaultdict(float)
        for standing, share in zip(step.standings, step.shares, strict=True):
            rates[standing.flow] += share * seconds / self._config.weight(standing.flow)
            if standing.job_id in self._served:
                self._served[standing.job_id] = now
        for stage in {step.stage, "denoise"} & self._clocks.keys():
            for flow, rate in rates.items():
                self._clocks[stage].charge(flow, rate)

    def _fill(self, stage: Stage, wants: list[Want], now: float) -> Step:
        lines: defaultdict[Flow, list[Want]] = defaultdict(list)
        for want in wants:
            lines[self._standings[want.job_id].flow].append(want)
        times = self._clocks[stage].open(lines.keys())
        aged = self._rescue(wants, now)

        def rank(want: Want) -> tuple[bool, float, float, float, float, str]:
            standing = self._standings[want.job_id]
            deadline = math.inf if standing.deadline is None else standing.deadline
            served = self._served[want.job_id]
            return want is not aged, times[standing.flow], deadline, served, standing.arrived, want.job_id

        for line in lines.values():
            line.sort(key=rank, reverse=True)
        heap = [(rank(line[-1]), flow) for flow, line in lines.items()]
        heapify(heap)
        taken: dict[str, float] = {}
        load, seconds, latest = Load(), 0.0, math.inf
        while heap and load.rows < self._config.max_rows:
            (_, time, *_), flow = heappop(heap)
            if time > latest:
                break
            want = lines[flow].pop()
            alone, packed = self._cost.seconds(stage, want.load), load + want.load
            together = self._cost.seconds(stage, packed)
            saves = together <= seconds + (1 - self._config.min_gain) * alone
            is_short = stage != "denoise" and together <= self._short_seconds
            if not taken or ((saves or is_short) and self._fits(stage, packed)):
                load, seconds = packed, together
                taken[want.job_id] = alone
                times[flow] += alone / self._config.weight(flow)
            else:
                latest = time
            if lines[flow]:
                heappush(heap, (rank(lines[flow][-1]), flow))
        whole = sum(taken.values())
        return Step(
            stage=stage,
            standings=tuple(self._standings[job_id] for job_id in taken),
            shares=tuple(alone / whole if whole else 1 / len(taken) for alone in taken.values()),
            load=load,
            seconds=seconds,
        )

    def _fits(self, stage: Stage, load: Load) -> bool:
        is_small = load.rows <= self._config.max_rows and load.tokens <= self._config.max_tokens
        return is_small and (self._has_room is None or self._has_room(stage, load))

    def _rescue(self, wants: Iterable[Want], now: float) -> Want | None:
        """Return who has waited too long, the oldest, unless somebody was rescued just before."""
        oldest = min(wants, key=lambda want: self._served[want.job_id])
        if now - max(self._served[oldest.job_id], self._rescued) <= self._config.ageing_seconds:
            return None
        self._rescued = now
        return oldest


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """When a job that comes now would begin and end, if nobody came after it.

    What is expected takes sharing as fluid: while flows have work left, each gets its weight's part of the
    device, and inside a flow the job comes after those that are ahead. What packing will save is not known.

    Attributes:
        remaining: Device-seconds that the jobs ahead still need, by flow.
        busy_seconds: What is left of the step on the device.
    """

    config: SchedulerConfig
    remaining: Mapping[Flow, float]
    busy_seconds: float = 0.0

    def waiting_seconds(self, flow: Flow) -> float:
        """Return when a job of this flow is expected to begin."""
        return self.finish_seconds(flow, 0.0)

    def finish_seconds(self, flow: Flow, seconds: float) -> float:
        """Return when a job of this flow that needs so many device-seconds is expected to end.

        Until then its flow gets all that is ahead of it and itself, and every other flow its weight's part
        beside that, or all it needs if that is less.
        """
        own = self.remaining.get(flow, 0.0) + seconds
        virtual = own / self.config.weight(flow)
        others = (
            min(needed, virtual * self.config.weight(other))
            for other, needed in self.remaining.items()
            if other != flow
        )
        return self.busy_seconds + own + sum(others)

    def soonest_seconds(self, seconds: float) -> float:
        """Return when it would end if all others went away: a deadline before that cannot be met, by anyone.

        Only the step on the device must come before it; the others may end early or be cancelled. So what
        could be done is never refused, as far as the costs are known.
        """
        return self.busy_seconds + seconds
