from dataclasses import replace

import pytest

from model.checkpoint import build
from model.errors import BadRequest, MissingCapability
from model.request import MAX_SEED, Progress, check_task, chosen_seed, ignore


def test_a_task_that_a_checkpoint_does_not_do_is_refused_with_those_that_it_does() -> None:
    can = build({"family": "omnigen2", "transformer": {}}).capabilities
    with pytest.raises(MissingCapability, match="cannot edit; it lacks the parts for any task"):
        check_task("edit", can)
    check_task("edit", replace(can, tasks=("edit",)))
    with pytest.raises(MissingCapability, match="cannot generate; it can edit"):
        check_task("generate", replace(can, tasks=("edit",)))


def test_a_seed_is_kept_or_drawn() -> None:
    assert [chosen_seed(seed) for seed in (0, 7, MAX_SEED)] == [0, 7, MAX_SEED]
    drawn = {chosen_seed(None) for _ in range(20)}
    assert len(drawn) > 1
    assert all(0 <= seed <= MAX_SEED for seed in drawn)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(BadRequest) as refusal:
        chosen_seed(seed)
    assert refusal.value.param == "seed"


def test_who_listens_to_nothing_stops_nothing() -> None:
    ignore(Progress(stage="denoise", done=0, total=1))
