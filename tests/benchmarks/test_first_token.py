import pytest

from benchmarks.driver import Driver
from benchmarks.first_token import ALLOWED_SECONDS, first_token_seconds, measure_first_token
from benchmarks.workload import Workload
from service.engine.job import LoadedModel


def test_a_first_token_comes_before_the_end(tiny: LoadedModel) -> None:
    with Driver(tiny) as driver:
        question = Workload(tiny.card.capabilities).question()
        (ended,) = driver.run(question)
        assert first_token_seconds(driver, question) > 0
    assert ended.timings.total_seconds > 0


@pytest.mark.slow
def test_the_bound_is_a_step_a_prefill_and_what_is_allowed(tiny: LoadedModel) -> None:
    figure = measure_first_token(tiny, num_questions=4)
    steps = figure.details["step_seconds"]
    assert isinstance(steps, dict)
    bound = steps["denoise"]["p95"] + steps["prefill"]["p50"] + ALLOWED_SECONDS
    assert figure.bar == pytest.approx(bound, abs=1e-4)
    assert figure.details["questions"] == 4
    assert figure.is_met == (figure.value <= figure.bar)
