from itertools import pairwise

import pytest
import torch

from training.errors import TrainingRefused
from training.schedule import MicroBatch, Schedule


def test_the_learning_rate_rises_holds_and_falls_to_nothing() -> None:
    schedule = Schedule(steps=1000, batch=1, learning_rate=1.0, warmup=100, decay=0.3)
    rates = [schedule.rate(step) for step in range(1001)]
    assert all(a < b for a, b in pairwise(rates[:100]))
    assert set(rates[99:701]) == {1.0}
    assert all(a > b for a, b in pairwise(rates[700:]))
    assert rates[-1] == 0


def test_the_micro_batches_of_a_step_are_its_batch_and_no_two_are_alike() -> None:
    schedule = Schedule(steps=3, batch=12, micro_batch=4, learning_rate=1.0)
    batches = [batch for step in range(3) for batch in schedule.micro_batches(step)]
    assert [batch.size for batch in batches] == [4] * 9
    assert len({batch.seed for batch in batches}) == 9
    assert len(Schedule(steps=1, batch=12, learning_rate=1.0).micro_batches(0)) == 1


def test_all_that_is_random_about_a_micro_batch_comes_from_its_place() -> None:
    batch = MicroBatch(run=3, step=7, index=1, count=2, size=4)
    assert batch.rng().random() == batch.rng().random()
    noises = [torch.randn(3, generator=each.generator()) for each in (batch, batch, MicroBatch(size=4))]
    assert torch.equal(noises[0], noises[1])
    assert not torch.equal(noises[0], noises[2])


@pytest.mark.parametrize("micro_batch", [0, 5, -1])
def test_a_batch_that_is_not_whole_micro_batches_is_refused(micro_batch: int) -> None:
    with pytest.raises(TrainingRefused, match="must be a multiple of micro_batch"):
        Schedule(steps=1, batch=12, micro_batch=micro_batch, learning_rate=1.0)
