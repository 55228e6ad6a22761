import pytest

from benchmarks.cancels import Attempt, measure_cancels
from service.engine.job import LoadedModel


@pytest.mark.parametrize(
    ("num_more_steps", "num_running", "num_cached_tokens", "has_let_go"),
    [(0, 1, 0, True), (1, 1, 0, True), (2, 1, 0, False), (1, 2, 0, False), (1, 1, 5, False)],
)
def test_who_keeps_its_rows_its_place_or_its_contexts_has_not_let_go(
    num_more_steps: int, num_running: int, num_cached_tokens: int, has_let_go: bool
) -> None:
    attempt = Attempt(
        was_shared=True,
        num_more_steps=num_more_steps,
        num_running=num_running,
        num_cached_tokens=num_cached_tokens,
    )
    assert attempt.has_let_go is has_let_go


def test_every_cancel_frees_its_rows(tiny: LoadedModel) -> None:
    figure = measure_cancels(tiny, num_tries=3)
    assert figure.is_met, figure
    assert figure.details["tries"] == figure.details["good"] == 3
