from benchmarks.bookkeeping import profile_bookkeeping
from benchmarks.driver import Driver
from benchmarks.workload import Workload
from service.engine.job import LoadedModel


def test_what_the_engine_does_between_steps_is_told_by_function(tiny: LoadedModel) -> None:
    work = Workload(tiny.card.capabilities).generation(num_inference_steps=3)
    with Driver(tiny) as driver:
        told = profile_bookkeeping(driver, work, repeats=2)
    assert told["steps"] == 5, "a prefill, three steps and a decode"
    own = told["microseconds_of_a_step"]
    assert "scheduler._fill" in own
    assert 0 < sum(own.values()) <= told["all_microseconds_of_a_step"] + 1
