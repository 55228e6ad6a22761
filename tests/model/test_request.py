import pytest

from model.errors import BadRequest
from model.request import MAX_SEED, Progress, chosen_seed, ignore


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
