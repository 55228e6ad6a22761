import pytest

from benchmarks.driver import Driver, to_job
from benchmarks.workload import Workload
from model.drawing import Drawn
from model.errors import BadRequest
from model.question import Answered
from service.engine.job import Event, Finished, LoadedModel


@pytest.fixture
def workload(tiny: LoadedModel) -> Workload:
    return Workload(tiny.card.capabilities)


def test_all_that_is_submitted_ends_in_its_order(tiny: LoadedModel, workload: Workload) -> None:
    with Driver(tiny) as driver:
        drawn, answered = driver.run(workload.generation(num_inference_steps=2), workload.question())
    assert isinstance(drawn.result, Drawn)
    assert isinstance(answered.result, Answered)
    assert [each.stage for each in driver.steps].count("denoise") == 2


def test_events_are_heard_and_the_last_one_is_the_end(tiny: LoadedModel, workload: Workload) -> None:
    heard: list[Event] = []
    with Driver(tiny) as driver:
        end = driver.submit(to_job(workload.generation(num_inference_steps=2)), heard.append).result(60)
    assert heard[-1] is end
    assert len(heard) > 3


def test_what_cannot_be_done_is_raised(tiny: LoadedModel, workload: Workload) -> None:
    with Driver(tiny) as driver, pytest.raises(BadRequest):
        driver.run(workload.generation(num_inference_steps=0))


def test_who_is_kept_busy_always_has_something_to_do(tiny: LoadedModel, workload: Workload) -> None:
    ended: list[Finished] = []
    with Driver(tiny) as driver:
        with driver.kept_busy([lambda: workload.generation(num_inference_steps=2)] * 2):
            ended += driver.run(workload.generation(num_inference_steps=4))
        assert driver.engine.num_running == 0
    assert len(ended) == 1
    assert any(each.load.rows > 2 for each in driver.steps if each.stage == "denoise")


def test_nothing_is_remembered_unless_a_cache_is_given(tiny: LoadedModel, workload: Workload) -> None:
    work = workload.generation(num_inference_steps=1)
    for max_cache_bytes, is_remembered in ((0, False), (2**20, True)):
        with Driver(tiny, max_cache_bytes=max_cache_bytes) as driver:
            driver.run(work)
            (again,) = driver.run(work)
        assert bool(again.result.usage.cached_prompt_tokens) is is_remembered
