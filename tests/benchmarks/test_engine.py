from collections import Counter
from functools import partial

import httpx
import pytest

from benchmarks.engine import (
    ROWS,
    measure_alone,
    measure_packing,
    measure_prefixes,
    measure_wire,
    profile_step,
)
from benchmarks.workload import Workload, perform
from service.engine.cost import STAGES
from service.engine.job import LoadedModel
from service.schemas.drawing import GenerateRequest


@pytest.fixture
def workload(tiny: LoadedModel) -> Workload:
    return Workload(tiny.card.capabilities)


def test_packing_is_compared_with_the_engine_and_with_the_pipeline(
    tiny: LoadedModel, workload: Workload
) -> None:
    works = [workload.generation(num_inference_steps=2), workload.question()]
    figure = measure_packing(tiny, "mixed", works, repeats=1)
    assert figure.name == "packed_mixed"
    assert figure.is_met == (figure.value >= 2)
    assert figure.details.keys() == {"spread", "over_pipeline", "seconds", "seconds_by_stage"}
    stages = figure.details["seconds_by_stage"]
    assert isinstance(stages, dict)
    assert stages["together"].keys() == set(STAGES)
    assert stages["together"]["denoise"] > 0 < stages["one_by_one"]["denoise"]


@pytest.mark.slow
def test_a_step_is_timed_by_its_rows(tiny: LoadedModel) -> None:
    profile = profile_step(tiny.family)
    assert profile["seconds_by_rows"].keys() == {str(count) for count in ROWS}  # type: ignore[attr-defined]


def test_one_request_is_compared_with_the_pipeline(tiny: LoadedModel, workload: Workload) -> None:
    figure = measure_alone(tiny, "understand", workload.question(), repeats=3)
    spread = figure.details["spread"]
    assert isinstance(spread, list)
    assert figure.value == pytest.approx(spread[1], abs=1e-4)
    assert figure.is_met == (figure.value <= 1.03)


def test_the_wire_is_asked_for_new_words_each_time(tiny: LoadedModel, workload: Workload) -> None:
    asked: list[GenerateRequest] = []
    timings = dict.fromkeys(("queue", "prefill", "denoise", "decode"), 0.1) | {"total": 0.4}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200)
        asked.append(GenerateRequest.model_validate_json(request.content))
        return httpx.Response(200, json={"timings": timings, "usage": {"device_seconds": 0.3}})

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://test") as client:
        figure = measure_wire(partial(perform, tiny.family), client, client, workload, 2)
    words = Counter((each.prompt, each.negative_prompt) for each in asked)
    assert set(words.values()) == {2}, "once unsigned and once signed"
    assert len(words) == 3
    assert figure.value == pytest.approx(-0.3, abs=0.2), "a server that does nothing, and says it took 0.3 s"
    assert figure.details["server_seconds"] == {name: [each] * 3 for name, each in timings.items()}
    parts = figure.details["of_which"]
    assert isinstance(parts, dict)
    assert parts["engine_between_steps"] == [0.1] * 3


def test_a_server_that_refuses_is_not_measured(tiny: LoadedModel, workload: Workload) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(503))
    with (
        httpx.Client(transport=transport, base_url="http://test") as client,
        pytest.raises(httpx.HTTPStatusError),
    ):
        measure_wire(partial(perform, tiny.family), client, client, workload, 1)


def test_a_cache_reads_less_of_a_further_edit(tiny: LoadedModel, workload: Workload) -> None:
    figure = measure_prefixes(tiny, workload, 2)
    tokens = figure.details["prefilled_tokens"]
    assert isinstance(tokens, dict)
    assert tokens["kept"] < tokens["dropped"]
    assert figure.is_met == (figure.value >= 0.3)
