import threading
from pathlib import Path

import pytest

from benchmarks.apart import aside, pipeline
from benchmarks.workload import Workload
from service.engine.job import LoadedModel
from service.settings import Settings


def test_work_aside_runs_on_a_thread_that_ends() -> None:
    thread = aside(threading.current_thread)
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_pipeline_performs_in_a_process_of_its_own(model_folder: Path, tiny: LoadedModel) -> None:
    workload = Workload(tiny.card.capabilities)
    with pipeline(Settings(model=str(model_folder), num_threads=1)) as bare:
        for work in (workload.generation(num_inference_steps=2), workload.question()):
            assert bare(work) is None
