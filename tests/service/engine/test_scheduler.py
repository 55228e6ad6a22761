import math
import pickle
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise, repeat
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.engine.cost import STAGES, CostModel, Load, Stage
from service.engine.scheduler import (
    Flow,
    Forecast,
    Priority,
    Scheduler,
    SchedulerConfig,
    Standing,
    Step,
    Want,
)

Piece = tuple[Stage, int]

SIZES = (50, 100, 400, 1000)
ALONE = SchedulerConfig(min_gain=0.99)


def run_seconds(stage: Stage, load: Load) -> float:
    """What a step takes on the devices of these tests."""
    seconds = 0.02 + load.rows * 0.001 + load.tokens * 1e-4
    return seconds / 10 if stage == "answer" else seconds


def load_of(size: int) -> Load:
    return Load(rows=1, tokens=size, pairs=size)


def learn_costs() -> CostModel:
    """What is learnt of the device when it is calibrated."""
    model, draw = CostModel(), random.Random(0)
    for stage in STAGES:
        for rows in (1, 2, 4, 8, 16) * 6:
            load = sum((load_of(draw.choice(SIZES)) for _ in range(rows)), Load())
            model.observe(stage, load, run_seconds(stage, load))
    return model


COSTS = learn_costs()


class Device:
    """Runs what the scheduler chooses; time passes only here.

    Attributes:
        seconds: What each flow was billed.
        courses: What each job has still to go through.
        wants: What each job could do now.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.scheduler = Scheduler(config, COSTS)
        self.now = 0.0
        self.seconds: defaultdict[Flow, float] = defaultdict(float)
        self.courses: dict[str, Iterator[Piece]] = {}
        self.wants: dict[str, Want] = {}

    def add(
        self,
        job_id: str,
        course: Iterable[Piece],
        *,
        tenant: str = "a",
        priority: Priority = "interactive",
        weight: float = 1.0,
        deadline: float | None = None,
    ) -> None:
        flow = Flow(tenant, priority, weight)
        self.scheduler.add(Standing(job_id=job_id, flow=flow, arrived=self.now, deadline=deadline))
        self.courses[job_id] = iter(course)
        self.go_on(job_id)

    def remove(self, job_id: str) -> None:
        self.scheduler.remove(job_id)
        del self.courses[job_id]
        self.wants.pop(job_id, None)

    def go_on(self, job_id: str) -> None:
        self.wants.pop(job_id, None)
        if piece := next(self.courses[job_id], None):
            self.wants[job_id] = Want(job_id=job_id, stage=piece[0], load=load_of(piece[1]))
        else:
            self.remove(job_id)

    def choose(self) -> Step | None:
        return self.scheduler.choose(self.wants.values(), self.now)

    def finish(self, step: Step) -> None:
        seconds = run_seconds(step.stage, step.load)
        self.now += seconds
        self.scheduler.charge(step, seconds, self.now)
        for standing, share in zip(step.standings, step.shares, strict=True):
            self.seconds[standing.flow] += share * seconds
            if standing.job_id in self.wants:
                self.go_on(standing.job_id)

    def run(self) -> Step:
        step = self.choose()
        assert step
        self.finish(step)
        return step

    def run_until(self, now: float) -> dict[Flow, float]:
        """Run, and return what each flow was billed meanwhile."""
        before = self.seconds.copy()
        while self.now < now:
            self.run()
        return {flow: seconds - before[flow] for flow, seconds in self.seconds.items()}


def forever(stage: Stage, *sizes: int) -> Iterator[Piece]:
    while True:
        for size in sizes or (100,):
            yield stage, size


def drawing(num_steps: int, size: int) -> Iterator[Piece]:
    return chain([("prefill", 100)], repeat(("denoise", size), num_steps), [("decode", size)])


def drawings(num_steps: int, size: int) -> Iterator[Piece]:
    while True:
        yield from drawing(num_steps, size)


def answer(num_tokens: int) -> Iterator[Piece]:
    return chain([("prefill", 100)], repeat(("answer", 1), num_tokens))


# Shares


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    priorities=st.lists(st.sampled_from(["interactive", "batch"]), min_size=2, max_size=3),
    weights=st.lists(st.sampled_from([1, 2]), min_size=3, max_size=3),
    num_steps=st.lists(st.sampled_from([2, 4, 30]), min_size=3, max_size=3),
    sizes=st.lists(st.sampled_from(SIZES[:3]), min_size=3, max_size=3),
    max_rows=st.sampled_from([1, 4]),
    min_gain=st.sampled_from([0, 0.05, 0.5, 0.99]),
)
def test_flows_that_could_use_more_share_the_device_by_weight(
    *,
    priorities: list[Priority],
    weights: list[int],
    num_steps: list[int],
    sizes: list[int],
    max_rows: int,
    min_gain: float,
) -> None:
    config = SchedulerConfig(max_rows=max_rows, min_gain=min_gain)
    device = Device(config)
    for tenant, priority, weight, steps, size in zip(
        "abc", priorities, weights, num_steps, sizes, strict=False
    ):
        for number in range(3 * max_rows):
            course = drawings(steps, size)
            device.add(f"{tenant}{number}", course, tenant=tenant, priority=priority, weight=weight)
    device.run_until(100)
    whole = sum(config.weight(flow) for flow in device.seconds)
    for flow, seconds in device.seconds.items():
        assert seconds == pytest.approx(device.now * config.weight(flow) / whole, rel=0.05)


def test_a_newcomer_is_served_in_the_next_step_or_the_one_after() -> None:
    device = Device(ALONE)
    for number in range(9):
        device.add(str(number), forever("denoise"), tenant="abc"[number % 3])
    device.run_until(10)
    device.add("newcomer", forever("denoise"), tenant="d")
    assert "newcomer" in device.run().job_ids + device.run().job_ids


def test_an_idle_flow_saves_nothing() -> None:
    device = Device(ALONE)
    for tenant in "ab":
        device.add(tenant, forever("denoise"), tenant=tenant)
    device.run_until(5)
    want = device.wants.pop("b")
    device.run_until(50)
    device.wants["b"] = want
    gained = device.run_until(60)
    assert gained[Flow("b", "interactive")] == pytest.approx(gained[Flow("a", "interactive")], rel=0.05)


def test_who_uses_what_others_leave_owes_nothing_for_it() -> None:
    device = Device(SchedulerConfig(max_rows=4))
    device.add("modest", forever("denoise"), tenant="modest")
    for number in range(6):
        device.add(f"b{number}", forever("denoise"), tenant="b", priority="batch")
    device.run_until(100)
    for number in range(6):
        device.add(f"c{number}", forever("denoise"), tenant="c", priority="batch")
    gained = device.run_until(110)
    assert gained[Flow("b", "batch")] == pytest.approx(gained[Flow("c", "batch")], rel=0.1)


def test_who_was_modest_cannot_save_it_up() -> None:
    device = Device(SchedulerConfig(max_rows=4))
    device.add("a", forever("denoise"), tenant="a")
    for number in range(6):
        device.add(f"b{number}", forever("denoise"), tenant="b")
    device.run_until(100)
    for number in range(6):
        device.add(f"a{number}", forever("denoise"), tenant="a")
    gained = device.run_until(110)
    assert gained[Flow("a", "interactive")] == pytest.approx(gained[Flow("b", "interactive")], rel=0.1)


def test_leaving_and_coming_back_pays_no_bill() -> None:
    device = Device(ALONE)
    device.add("stays", forever("denoise"), tenant="a", priority="interactive")
    for number in range(200):
        device.add(f"comes {number}", [("denoise", 100)], tenant="b", priority="batch")
        while f"comes {number}" in device.wants:
            device.run()
        device.run()
    assert device.seconds[Flow("b", "batch")] / device.now < 0.21


def test_a_packed_step_is_itself_shared_by_weight() -> None:
    device = Device(SchedulerConfig(max_rows=6))
    for number in range(18):
        device.add(str(number), forever("denoise"), tenant="ab"[number % 2], weight=2 - number % 2)
    device.run_until(10)
    for _ in range(10):
        assert Counter(standing.flow.tenant for standing in device.run().standings) == {"a": 4, "b": 2}


def test_a_new_weight_counts_from_the_next_job_on() -> None:
    device = Device(ALONE)
    for number in range(2):
        device.add(f"{number}", forever("denoise"), tenant="ab"[number])
    device.run_until(10)
    device.remove("0")
    device.add("heavy", forever("denoise"), tenant="a", weight=3)
    gained = device.run_until(30)
    assert gained[Flow("a", "interactive")] == pytest.approx(3 * gained[Flow("b", "interactive")], rel=0.05)


def test_a_small_job_beside_a_big_one_gets_its_part_in_many_short_steps() -> None:
    device = Device(SchedulerConfig(min_gain=0.5))
    for job_id, size in (("small", 50), ("big", 4000)):
        device.add(job_id, forever("denoise", size), tenant=job_id)
    device.add("rides along", forever("denoise", 50), tenant="rides along", priority="batch")
    device.run_until(100)
    for tenant in ("small", "big"):
        assert device.seconds[Flow(tenant, "interactive")] / device.now == pytest.approx(4 / 9, rel=0.05)


def test_a_crowd_of_answers_shares_its_turns_whoever_draws_beside() -> None:
    device = Device(SchedulerConfig(max_rows=4))
    for number in range(8):
        device.add(f"a{number}", forever("answer", 1), tenant="a")
        device.add(f"draws{number}", forever("denoise"), tenant="b")
    device.add("b", forever("answer", 1), tenant="b")
    device.run_until(10)
    served = Counter(job_id for _ in range(200) for job_id in device.run().job_ids)
    assert served["b"] >= max(served[f"a{number}"] for number in range(8))


def test_a_step_is_billed_by_what_each_would_cost_alone() -> None:
    device = Device(SchedulerConfig())
    sizes = {"a": 50, "b": 400}
    for job_id, size in sizes.items():
        device.add(job_id, forever("denoise", size))
    step = device.run()
    assert sum(step.shares) == pytest.approx(1)
    bills = dict(zip(step.job_ids, step.shares, strict=True))
    alone = {job_id: COSTS.seconds("denoise", load_of(size)) for job_id, size in sizes.items()}
    assert bills["a"] / bills["b"] == pytest.approx(alone["a"] / alone["b"])


def test_before_costs_are_known_everybody_runs_and_is_billed_alike() -> None:
    scheduler = Scheduler(SchedulerConfig(), CostModel())
    wants = []
    for job_id in "abc":
        scheduler.add(Standing(job_id=job_id, flow=Flow(job_id, "batch"), arrived=0.0))
        wants.append(Want(job_id=job_id, stage="denoise", load=load_of(100)))
    step = scheduler.choose(wants, 0.0)
    assert step
    assert step.job_ids == ("a", "b", "c")
    assert step.shares == pytest.approx([1 / 3] * 3)


# Order inside a flow


def test_the_earliest_deadline_goes_first_and_none_last() -> None:
    device = Device(ALONE)
    for job_id, deadline in (("none", None), ("late", 90.0), ("early", 80.0)):
        device.add(job_id, [("denoise", 100)] * 2, deadline=deadline)
    assert [device.run().job_ids[0] for _ in range(6)] == ["early"] * 2 + ["late"] * 2 + ["none"] * 2


def test_new_jobs_go_by_arrival() -> None:
    device = Device(ALONE)
    for job_id in "cab":
        device.add(job_id, [("prefill", 100)])
        device.now += 0.1
    assert [device.run().job_ids[0] for _ in range(3)] == ["c", "a", "b"]


@pytest.mark.parametrize("max_rows", [1, 2, 3])
def test_running_jobs_of_one_flow_take_turns(max_rows: int) -> None:
    device = Device(SchedulerConfig(max_rows=max_rows))
    for number in range(6):
        device.add(str(number), forever("denoise", SIZES[number % 4]))
    served = Counter(job_id for _ in range(60) for job_id in device.run().job_ids)
    assert set(served.values()) == {10 * max_rows}


def test_who_is_behind_an_endless_row_of_deadlines_is_rescued() -> None:
    device = Device(SchedulerConfig(min_gain=0.99, ageing_seconds=1))
    for number in range(3):
        device.add(f"urgent{number}", forever("denoise"), deadline=1000.0)
    device.add("patient", forever("denoise"))
    served = Counter(device.run().job_ids[0] for _ in range(1000))
    assert served["patient"] >= 0.9 * device.now


def test_when_everybody_is_old_weights_still_count() -> None:
    device = Device(SchedulerConfig(min_gain=0.99, ageing_seconds=1))
    for number in range(15):
        device.add(f"a{number}", forever("denoise"), tenant="a", priority="interactive")
        device.add(f"b{number}", forever("denoise"), tenant="b", priority="batch")
    device.run_until(60)
    assert device.seconds[Flow("a", "interactive")] / device.now == pytest.approx(0.8, rel=0.05)


# Packing


def test_jobs_are_packed_only_while_that_saves() -> None:
    def packed(min_gain: float) -> int:
        device = Device(SchedulerConfig(min_gain=min_gain))
        for number in range(6):
            device.add(str(number), forever("denoise", 400))
        return len(device.run().job_ids)

    saved = 0.02 / run_seconds("denoise", load_of(400))
    assert packed(saved * 0.8) == 6
    assert packed(saved * 1.2) == 1


def test_where_packing_saves_nothing_a_short_stage_is_packed_while_it_stays_short() -> None:
    def packed(stage: Stage, share: float) -> list[int]:
        device = Device(SchedulerConfig(min_gain=0.99, short_share=share))
        device.add("draws", forever("denoise", 4000))
        for number in range(6):
            device.add(str(number), forever(stage, 100))
        device.run_until(5)
        return [len(step.job_ids) for step in (device.run() for _ in range(20)) if step.stage == stage]

    share = 1.05 * run_seconds("prefill", Load(rows=3, tokens=300)) / run_seconds("denoise", load_of(4000))
    assert set(packed("prefill", share)) == set(packed("decode", share)) == {3}
    assert set(packed("prefill", 0.0)) == set(packed("denoise", share)) == {1}


def test_a_job_above_the_caps_runs_alone() -> None:
    device = Device(SchedulerConfig(max_tokens=300, max_rows=2))
    for number, size in enumerate((100, 1000, 100, 100)):
        device.add(str(number), [("denoise", size)])
    assert sorted(device.run().job_ids for _ in range(3)) == [("0", "2"), ("1",), ("3",)]


def test_no_other_flow_overtakes_one_that_was_passed_over() -> None:
    device = Device(SchedulerConfig(max_tokens=1000))
    device.add("big", forever("denoise", 1000), tenant="big")
    device.add("small", forever("denoise", 100), tenant="small")
    device.run_until(10)
    steps = [device.run().job_ids for _ in range(100)]
    assert Counter(steps)["big",] == pytest.approx(100 / 5.1, abs=2)
    device.add("newcomer", forever("denoise", 100), tenant="newcomer")
    last = next(job_ids for job_ids in iter(lambda: device.run().job_ids, None) if "big" in job_ids)
    assert last == ("big",)


# Turns


def test_stages_take_turns_in_their_order() -> None:
    device = Device(SchedulerConfig())
    for stage in STAGES:
        device.add(stage, forever(stage))
    device.run_until(1)
    stages = [device.run().stage for _ in range(100)]
    denoised = [index for index, stage in enumerate(stages) if stage == "denoise"]
    for start, end in pairwise(denoised):
        first, second, *answers, last = stages[start + 1 : end]
        assert (first, second, last) == ("prefill", "decode", "prefill")
        assert set(answers) == {"answer"}


def test_answers_take_their_share_of_a_step_and_one_step_at_least() -> None:
    def answers_between(size: int, share: float) -> int:
        device = Device(SchedulerConfig(short_share=share))
        device.add("draws", forever("denoise", size))
        device.add("answers", forever("answer", 1))
        while device.run().stage != "denoise":
            pass
        return [device.run().stage for _ in range(100)].index("denoise")

    alone = run_seconds("answer", load_of(1))
    assert answers_between(4000, 0.2) == int(0.2 * run_seconds("denoise", load_of(4000)) / alone)
    assert answers_between(50, 0.0) == 1


def test_when_nobody_wants_anything_there_is_no_step() -> None:
    assert Scheduler(SchedulerConfig(), COSTS).choose([], 0.0) is None


# Leaving


def test_a_job_that_left_changes_nothing_for_the_others() -> None:
    devices = [Device(SchedulerConfig(max_rows=3)) for _ in range(2)]
    for device in devices:
        for number in range(8):
            tenant = "ab"[number % 2]
            device.add(str(number), drawing(5, SIZES[number % 4]), tenant=tenant)
    devices[1].add("ghost", drawing(5, 100), tenant="c", priority="batch")
    devices[1].remove("ghost")
    while devices[0].wants:
        assert devices[0].run() == devices[1].run()
    assert devices[1].choose() is None


def test_nothing_is_kept_of_jobs_that_left() -> None:
    device = Device(SchedulerConfig())
    for job_id in ("ghost-1", "ghost-2"):
        device.add(job_id, forever("denoise"), tenant="ghost")
    step = device.choose()
    device.remove("ghost-1")
    assert step
    device.finish(step)
    device.remove("ghost-2")
    device.scheduler.remove("ghost-2")
    assert device.choose() is None
    assert b"ghost" not in pickle.dumps(device.scheduler)


@pytest.mark.parametrize("limits", [{"priority_weights": {"batch": -1}}, {"max_rows": 0}])
def test_a_share_and_a_step_must_have_room_for_somebody(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        SchedulerConfig(**limits)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan])
def test_nobody_has_a_share_of_nothing(weight: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Flow("a", "batch", weight)


# Forecasts

FLOWS = [Flow("a", "interactive"), Flow("b", "interactive"), Flow("a", "batch", 2.0), Flow("b", "batch")]
REMAINING = st.dictionaries(st.sampled_from(FLOWS), st.floats(0, 100))


@given(remaining=REMAINING, flow=st.sampled_from(FLOWS), seconds=st.floats(0, 100), busy=st.floats(0, 1))
def test_forecasts_lie_between_the_job_alone_and_everybody_first(
    remaining: dict[Flow, float], flow: Flow, seconds: float, busy: float
) -> None:
    forecast = Forecast(config=SchedulerConfig(), remaining=remaining, busy_seconds=busy)
    soonest, expected = forecast.soonest_seconds(seconds), forecast.finish_seconds(flow, seconds)
    everybody = busy + seconds + sum(remaining.values())
    assert busy <= forecast.waiting_seconds(flow) <= expected
    assert busy + seconds == soonest <= expected <= everybody + 1e-9


@settings(max_examples=10, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 100), min_size=2, max_size=4))
def test_where_nothing_is_packed_forecasts_come_true_but_for_a_few_steps(lengths: list[int]) -> None:
    device = Device(ALONE)
    step_seconds = COSTS.seconds("denoise", load_of(100))
    flows = dict(zip(FLOWS, lengths, strict=False))
    expected = {}
    for flow, own in flows.items():
        ahead = {other: length * step_seconds for other, length in flows.items() if other != flow}
        expected[flow] = Forecast(config=ALONE, remaining=ahead).finish_seconds(flow, own * step_seconds)
    for flow, length in flows.items():
        device.add(
            f"{flow}",
            [("denoise", 100)] * length,
            tenant=flow.tenant,
            priority=flow.priority,
            weight=flow.weight,
        )
    whole = sum(map(ALONE.weight, flows))
    while device.wants:
        (standing,) = device.run().standings
        if standing.job_id not in device.wants:
            few = step_seconds * (2 + whole / ALONE.weight(standing.flow))
            assert device.now == pytest.approx(expected[standing.flow], abs=few)


# Whatever comes


class Whatever(RuleBasedStateMachine):
    """Jobs come, wait, go on, are cancelled while they wait or run; the laws hold after every step."""

    config = SchedulerConfig(max_tokens=2000, max_rows=4, ageing_seconds=2.0)
    max_jobs = 12

    def __init__(self) -> None:
        super().__init__()
        self.device = Device(self.config)
        self.count = 0
        self.waiting_since: dict[str, float] = {}
        self.served: dict[str, float] = {}
        self.deadlines: dict[str, float] = {}
        self.soonest: dict[str, float] = {}
        self.asleep: dict[str, Want] = {}
        self.denoised_since: Counter[Stage] = Counter()
        self.since_denoised: defaultdict[Stage, list[float]] = defaultdict(list)
        self.denoise_seconds = 0.0

    @precondition(lambda self: len(self.device.courses) < self.max_jobs)
    @rule(
        pieces=st.one_of(
            st.builds(drawing, st.integers(1, 6), st.sampled_from((*SIZES, 5000))),
            st.builds(answer, st.integers(1, 20)),
        ).map(list),
        tenant=st.sampled_from("abc"),
        priority=st.sampled_from(["interactive", "batch"]),
        deadline=st.none() | st.floats(0, 100),
    )
    def add(self, pieces: list[Piece], tenant: str, priority: Priority, deadline: float | None) -> None:
        self.count += 1
        job_id = f"job-{self.count}."
        needed = sum(COSTS.seconds(stage, load_of(size)) for stage, size in pieces)
        forecast = Forecast(config=self.config, remaining={})
        self.soonest[job_id] = self.device.now + forecast.soonest_seconds(needed)
        self.deadlines[job_id] = math.inf if deadline is None else deadline
        self.served[job_id] = self.device.now
        weight = 2.0 if tenant == "b" else 1.0
        self.device.add(job_id, pieces, tenant=tenant, priority=priority, weight=weight, deadline=deadline)

    @precondition(lambda self: self.device.courses)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.device.courses)))
        self.device.remove(job_id)
        self.asleep.pop(job_id, None)
        assert job_id.encode() not in pickle.dumps(self.device.scheduler)

    @precondition(lambda self: self.device.wants)
    @rule(data=st.data())
    def fall_asleep(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.device.wants)))
        self.asleep[job_id] = self.device.wants.pop(job_id)

    @rule()
    def wake_all(self) -> None:
        self.device.wants |= self.asleep
        self.asleep.clear()

    @rule(seconds=st.floats(0, 3))
    def let_time_pass(self, seconds: float) -> None:
        if not self.device.wants:
            self.device.now += seconds

    @rule(count=st.integers(1, 8))
    def run_steps(self, count: int) -> None:
        for _ in range(count):
            self.run_step()

    @rule(data=st.data())
    def run_step_and_cancel_meanwhile(self, data: st.DataObject) -> None:
        self.run_step(data)

    def run_step(self, data: st.DataObject | None = None) -> None:
        wants, now = dict(self.device.wants), self.device.now
        step = self.device.choose()
        assert (step is None) == (not wants)
        if step is None:
            return
        self.check_step(step, wants)
        self.check_turn(step, {want.stage for want in wants.values()})
        self.check_order(step, wants)
        if data:
            self.device.remove(data.draw(st.sampled_from(step.job_ids)))
        self.device.finish(step)
        for job_id in wants.keys() & self.soonest.keys() - self.device.courses.keys():
            if job_id not in step.job_ids or not data:
                assert self.device.now >= 0.98 * self.soonest[job_id]
        self.waiting_since = {job_id: self.waiting_since.get(job_id, now) for job_id in wants}
        for job_id in step.job_ids:
            self.waiting_since[job_id] = self.served[job_id] = self.device.now

    def check_step(self, step: Step, wants: dict[str, Want]) -> None:
        assert len(set(step.job_ids)) == len(step.job_ids) > 0
        loads = [wants[job_id].load for job_id in step.job_ids]
        assert {wants[job_id].stage for job_id in step.job_ids} == {step.stage}
        assert step.load == sum(loads, Load())
        assert sum(step.shares) == pytest.approx(1)
        if len(loads) > 1:
            assert step.load.rows <= self.config.max_rows
            assert step.load.tokens <= self.config.max_tokens
            assert step.seconds < sum(COSTS.seconds(step.stage, load) for load in loads)

    def check_turn(self, step: Step, wanted: set[Stage]) -> None:
        for stage in STAGES:
            if stage not in wanted or stage == step.stage:
                self.denoised_since[stage] = 0
            elif step.stage == "denoise":
                self.denoised_since[stage] += 1
            assert self.denoised_since[stage] <= 1
        if "denoise" not in wanted or step.stage == "denoise":
            self.since_denoised.clear()
        else:
            self.since_denoised[step.stage].append(run_seconds(step.stage, step.load))
        assert len(self.since_denoised["prefill"]) <= 2
        assert len(self.since_denoised["decode"]) <= 1
        assert sum(self.since_denoised["answer"][:-1]) <= self.config.short_share * self.denoise_seconds
        if step.stage == "denoise":
            self.denoise_seconds = run_seconds(step.stage, step.load)

    def check_order(self, step: Step, wants: dict[str, Want]) -> None:
        """The first has the earliest deadline of its flow, or was rescued."""
        first = step.standings[0]
        rivals = [
            self.deadlines[job_id]
            for job_id, want in wants.items()
            if want.stage == step.stage and self.flow_of(job_id) == first.flow
        ]
        unserved = self.device.now - self.served[first.job_id]
        assert self.deadlines[first.job_id] == min(rivals) or unserved > self.config.ageing_seconds

    def flow_of(self, job_id: str) -> Flow:
        return self.device.scheduler._standings[job_id].flow

    @invariant()
    def nobody_starves(self) -> None:
        longest_round = 4 * run_seconds("denoise", load_of(5000))
        bound = self.config.ageing_seconds + self.max_jobs * (self.config.ageing_seconds + longest_round)
        for job_id in self.device.wants:
            assert self.device.now - self.waiting_since.get(job_id, self.device.now) <= bound

    def teardown(self) -> None:
        self.wake_all()
        for _ in range(self.max_jobs * 25):
            self.run_step()
        assert not self.device.courses
        assert b"job-" not in pickle.dumps(self.device.scheduler)


Whatever.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True
)
TestWhatever = Whatever.TestCase
