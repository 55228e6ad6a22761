from pathlib import Path

import pytest

from benchmarks import apart
from benchmarks.workload import Workload
from service.engine.job import LoadedModel
from service.settings import Settings


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_sides_work_in_processes_of_their_own(model_folder: Path, tiny: LoadedModel) -> None:
    workload = Workload(tiny.card.capabilities)
    works = [workload.generation(num_inference_steps=2), workload.question()]
    settings = Settings(model=str(model_folder), num_threads=1)
    with apart.pipeline(settings) as bare, apart.engine(settings) as engine:
        assert bare.run(*works) == []
        for together in (False, True):
            timings = engine.run(*works, together=together)
            assert [each.denoise_seconds > 0 for each in timings] == [True, False]
