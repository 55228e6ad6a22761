from itertools import product

import pytest

from benchmarks.device.plan import FULL, KINDS, MODELS, MODES, SCALES, TASKS, TOY, Case, Scale, make_plan
from benchmarks.gpu import SECONDS

SCALED = pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)


@SCALED
def test_every_case_has_a_name_of_its_own(scale: Scale) -> None:
    names = [case.name for case in make_plan(scale)]
    assert len(set(names)) == len(names)


@SCALED
def test_every_step_is_in_the_plan_in_every_mode_and_precision(scale: Scale) -> None:
    steps = {
        (case.model, case.task, case.side, case.batch, case.mode, case.precision)
        for case in make_plan(scale)
        if case.kind == "step"
    }
    assert steps == set(product(MODELS, TASKS, scale.sides, (1, 4), MODES, (scale.precision, "fp8")))


@SCALED
def test_correctness_and_ceilings_come_before_any_time(scale: Scale) -> None:
    assert [case.kind for case in make_plan(scale)[:2]] == ["checks", "ceilings"]


def test_the_toy_plan_is_the_full_one_made_small() -> None:
    full, toy = (
        [(each.kind, each.model, each.task, each.batch) for each in make_plan(s)] for s in (FULL, TOY)
    )
    assert full == toy
    assert {case.kind for case in make_plan(TOY)} == set(KINDS)


def test_whole_pictures_and_single_steps_fit_into_the_time_that_there_is() -> None:
    plan = make_plan(FULL)
    first = [index for index, case in enumerate(plan) if case.kind in ("dense", "kept")]
    assert sum(case.expected_seconds for case in plan[: max(first) + 1]) + FULL.start_seconds < SECONDS


def test_what_is_larger_is_expected_to_take_longer() -> None:
    def expected(**fields: object) -> float:
        found = [
            case.expected_seconds
            for case in make_plan(FULL)
            if all(getattr(case, name) == value for name, value in fields.items())
        ]
        return found[0]

    step = {"kind": "step", "model": "hbridge", "mode": "eager", "precision": "bfloat16"}
    small = expected(**step, task="generate", side=512, batch=1)
    assert small < expected(**step, task="edit", side=512, batch=1)
    assert small < expected(**step, task="generate", side=1024, batch=1)
    assert small < expected(**step, task="generate", side=512, batch=4)
    assert small < expected(**{**step, "mode": "compiled"}, task="generate", side=512, batch=1)


def test_pictures_of_a_batch_differ_in_size_and_are_whole_tokens() -> None:
    sizes = Case(kind="step", model="hbridge", side=1024, batch=4).sizes
    assert sizes[0] == (1024, 1024)
    assert len(set(sizes)) == 4
    assert all(side % 16 == 0 and 16 <= side <= 1024 for size in sizes for side in size)
