"""Spans as an in-process collector gets them, of an app over a tiny model."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.engine.client import Client
from service.engine.engine import EngineConfig
from service.engine.job import LoadedModel
from service.engine.process import EngineProcess
from service.otlp import OtlpTracing
from service.settings import Settings
from service.tracing import carrier, span
from tests.service.collector import ERROR, SERVER, Collector, Told
from tests.service.engine.toy import load
from tests.service.local_client import local_client

PAGE = set(re.findall(r"`[\w.]+`", (Path(__file__).parents[2] / "docs/watching.md").read_text("utf-8")))
PARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"
UNSAMPLED = f"00-{'ef' * 16}-{'cd' * 8}-00"
GENERATE: dict[str, Any] = {"prompt": "my secret", "num_inference_steps": 3, "seed": 5}
STAGES = ["admission", "prefill", "steps", "decode"]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def gated_client(gated_model: LoadedModel, make_client: Callable[..., Client]) -> Client:
    return make_client(gated_model, max_waiting=0)


Tracing = Callable[..., Any]


@pytest.fixture
def traced(
    collector: Collector,
    gated: Any,
    gated_model: LoadedModel,
    make_client: Callable[..., Client],
    wait_until: Callable[..., None],
) -> Tracing:
    """Return a context manager: an app that is ready; what it recorded is sent at its end."""

    @contextmanager
    def run(**settings: Any) -> Iterator[TestClient]:
        app = create_app(
            Settings(otlp_endpoint=f"{collector.endpoint}/", **settings),
            make_client(gated_model, max_waiting=0),
        )
        with local_client(app, raise_server_exceptions=False) as web:
            wait_until(lambda: web.get("/readyz").status_code == 200)
            yield web
            gated.gate.set()

    return run


def root(collector: Collector) -> Told:
    (only,) = (span for span in collector.spans if span.kind == SERVER)
    return only


def below(collector: Collector, parent: Told) -> list[Told]:
    return [span for span in collector.spans if span.parent_id == parent.id]


def test_a_request_is_a_span_in_the_callers_trace_and_its_stages_are_below_it(
    collector: Collector, traced: Tracing
) -> None:
    with traced() as web:
        answer = web.post("/v1/generate", json=GENERATE | {"n": 2}, headers={"traceparent": PARENT})
    request, timings = root(collector), answer.json()["timings"]
    assert (request.name, request.trace_id, request.parent_id) == ("POST /v1/generate", "ab" * 16, "cd" * 8)
    assert request.status == 0
    *stages, first, second = below(collector, request)
    assert [stage.name for stage in stages] == STAGES
    assert (first.name, second.name) == ("sign", "sign")
    assert {span.trace_id for span in collector.spans} == {"ab" * 16}
    for before, after in pairwise(stages):
        assert before.ended == after.begun
    admission, prefill, steps, decode = stages
    assert request.begun <= admission.begun
    assert decode.ended <= request.ended
    for stage, name in ((prefill, "prefill"), (steps, "denoise"), (decode, "decode")):
        assert stage.seconds == pytest.approx(timings[name], abs=1e-8)
    assert admission.seconds >= timings["queue"] == admission.attributes["hbridge.queue_seconds"]
    assert sum(stage.seconds for stage in stages) >= timings["total"]


def test_a_span_says_what_was_asked_and_what_it_took_in_the_conventions_words(
    collector: Collector, traced: Tracing
) -> None:
    with traced() as web:
        answer = web.post("/v1/generate", json=GENERATE | {"n": 2}).json()
    told, usage = root(collector).attributes, answer["usage"]
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/generate",
        "http.response.status_code": 200,
        "url.path": "/v1/generate",
        "url.scheme": "http",
        "gen_ai.operation.name": "generate_content",
        "gen_ai.output.type": "image",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.seed": 5,
        "gen_ai.response.id": answer["id"],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage["cached_prompt_tokens"],
        "hbridge.request_id": answer["id"],
        "hbridge.task": "generate",
        "hbridge.device_seconds": usage["device_seconds"],
    }
    assert told.items() >= expected.items()
    assert "error.type" not in told
    steps = next(span for span in collector.spans if span.name == "steps")
    assert steps.attributes == {
        "hbridge.steps": 3,
        "hbridge.network_calls": usage["network_calls"],
        "hbridge.image_tokens": usage["image_tokens"],
    }
    assert collector.resource["service.name"] == "hbridge"
    assert collector.resource["service.instance.id"]


def test_an_answers_tokens_are_its_decode(collector: Collector, traced: Tracing) -> None:
    with traced() as web:
        answer = web.post("/v1/understand", json={"prompt": "my secret", "max_tokens": 3}).json()
    stages = below(collector, root(collector))
    assert [stage.name for stage in stages] == ["admission", "prefill", "decode"]
    assert stages[-1].seconds == pytest.approx(answer["timings"]["decode"], abs=1e-8)
    told = root(collector).attributes
    assert told["gen_ai.output.type"] == "text"
    assert told["gen_ai.usage.output_tokens"] == answer["usage"]["completion_tokens"]
    assert told["gen_ai.response.finish_reasons"] == [answer["finish_reason"]]


def test_a_stream_is_a_span_to_its_end(collector: Collector, traced: Tracing) -> None:
    with traced() as web, web.stream("POST", "/v1/generate", json=GENERATE | {"stream": True}) as answer:
        assert "completed" in answer.read().decode()
    request = root(collector)
    stages = below(collector, request)
    assert [stage.name for stage in stages] == [*STAGES, "sign"]
    assert stages[-1].ended <= request.ended


def test_probes_are_not_traced_and_everything_else_is(collector: Collector, traced: Tracing) -> None:
    with traced() as web:
        for path in ("/livez", "/metrics", "/v1/models", "/v1/models/tiny", "/nothing"):
            web.get(path)
        web.request("BREW", "/v1/models")
    names = [span.name for span in collector.spans]
    assert names == ["GET /v1/models", "GET /v1/models/{model_id:path}", "GET", "HTTP /v1/models"]
    last = collector.spans[-1].attributes
    assert (last["http.request.method"], last["http.response.status_code"]) == ("_OTHER", 405)


def test_a_trace_that_is_not_sampled_is_not_recorded(collector: Collector, traced: Tracing) -> None:
    with traced() as web:
        web.post("/v1/generate", json=GENERATE, headers={"traceparent": UNSAMPLED})
    assert collector.spans == []


@pytest.mark.parametrize(
    "headers",
    [
        [("traceparent", "nonsense")],
        [("traceparent", PARENT), ("traceparent", UNSAMPLED)],
        [("traceparent", f"00-{'0' * 32}-{'cd' * 8}-01")],
    ],
)
def test_a_traceparent_that_is_none_begins_a_new_trace(
    collector: Collector, traced: Tracing, headers: list[tuple[str, str]]
) -> None:
    with traced() as web:
        web.get("/v1/models", headers=headers)
    assert root(collector).parent_id == ""
    assert root(collector).trace_id not in ("ab" * 16, "ef" * 16, "0" * 32)


def test_what_a_caller_got_wrong_is_no_failure_of_this_side(collector: Collector, traced: Tracing) -> None:
    with traced() as web:
        web.post("/v1/generate", json=GENERATE | {"n": 0})
    request = root(collector)
    assert (request.attributes["http.response.status_code"], request.status) == (400, 0)
    assert request.attributes["error.type"] == "invalid_request"
    assert below(collector, request) == []


def test_a_refusal_is_an_admission_that_failed(collector: Collector, traced: Tracing) -> None:
    with traced() as web:
        web.post("/v1/generate", json=GENERATE)
        web.post("/v1/generate", json=GENERATE | {"deadline_ms": 1})
    refused = [span for span in collector.spans if span.kind == SERVER][-1]
    assert refused.attributes["error.type"] == "deadline_unreachable"
    assert refused.status == 0
    (admission,) = below(collector, refused)
    assert (admission.name, admission.status, admission.message) == (
        "admission",
        ERROR,
        "deadline_unreachable",
    )


def test_an_image_at_an_address_is_a_span_that_does_not_tell_the_address(
    collector: Collector, traced: Tracing
) -> None:
    with traced() as web:
        web.post("/v1/edit", json=GENERATE | {"image": "https://images.example/a.png?key=my%20secret"})
    (fetch,) = below(collector, root(collector))
    assert (fetch.name, fetch.status, fetch.message) == ("fetch", ERROR, "invalid_image")
    assert b"images.example" not in collector.wire


@pytest.mark.parametrize(("breaks", "stages"), [("prepare", STAGES[:1]), ("decode", STAGES)])
def test_a_fault_is_an_error_of_its_stage_and_of_the_request_without_its_words(
    collector: Collector, traced: Tracing, gated: Any, breaks: str, stages: list[str]
) -> None:
    with traced() as web:

        def fail(*_: Any) -> Any:
            raise KeyError("my secret")

        setattr(gated, breaks, fail)
        answer = web.post("/v1/generate", json=GENERATE)
        delattr(gated, breaks)
    assert answer.status_code == 500
    request = root(collector)
    assert (request.status, request.attributes["error.type"]) == (ERROR, "internal_error")
    assert request.attributes["http.response.status_code"] == 500
    told = below(collector, request)
    assert [stage.name for stage in told] == stages
    assert [stage.status for stage in told] == [0] * (len(stages) - 1) + [ERROR]
    assert b"my secret" not in collector.wire


def test_who_leaves_is_cancelled_in_the_stage_that_it_was_in(
    collector: Collector, gated: Any, gated_client: Any, run_server: Any, wait_until: Callable[..., None]
) -> None:
    settings = Settings(port=0, otlp_endpoint=collector.endpoint)
    with run_server(settings, gated_client) as running:
        gated.num_calls = 0
        gated.gate.clear()
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.server.url}/v1/generate", json=GENERATE, timeout=0.3)
        wait_until(lambda: running.server.client.is_idle)
        gated.gate.set()
    request = root(collector)
    assert (request.attributes["http.response.status_code"], request.status) == (499, 0)
    assert request.attributes["error.type"] == "cancelled"
    *_, last = below(collector, request)
    assert (last.name, last.status, last.message) == ("steps", ERROR, "cancelled")


def test_prompts_are_recorded_only_when_the_operator_asks(
    collector: Collector, traced: Tracing, png64: Callable[..., str]
) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/generate": GENERATE | {"negative_prompt": "my secret", "metadata": {"a": "my secret"}},
        "/v1/edit": GENERATE | {"image": png64()},
        "/v1/understand": {"prompt": "my secret", "image": png64(), "max_tokens": 2},
    }
    with traced() as web:
        for path, body in bodies.items():
            assert web.post(path, json=body, headers={"Authorization": "Bearer my secret"}).status_code == 200
    assert b"my secret" not in collector.wire
    assert {f"`{name}`" for span in collector.spans for name in span.attributes} <= PAGE
    with traced(log_content=True) as web:
        for path, body in bodies.items():
            assert web.post(path, json=body, headers={"Authorization": "Bearer my key"}).status_code == 200
    assert collector.wire.count(b"my secret") == 4
    assert b"my key" not in collector.wire


def test_work_of_others_is_a_span_of_the_request_that_it_was_done_in(collector: Collector) -> None:
    tracing = OtlpTracing(collector.endpoint, model="tiny")
    scope = {
        "method": "POST",
        "path": "/",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [],
        "state": {"request_id": "req-1", "status": 202},
    }
    with tracing.request(scope):
        with span("sign", {"hbridge.images": 2}):
            time.sleep(0.001)
        with pytest.raises(TimeoutError), span("fetch"):
            raise TimeoutError("my secret")
        kept = carrier()
    thread = threading.Thread(target=resumed, args=(tracing, kept))
    thread.start()
    thread.join()
    tracing._provider.shutdown()
    request = root(collector)
    sign, fetch, job = below(collector, request)
    assert (sign.name, sign.attributes, sign.status) == ("sign", {"hbridge.images": 2}, 0)
    assert (fetch.name, fetch.status, fetch.attributes["error.type"]) == ("fetch", ERROR, "TimeoutError")
    assert job.name == "job"
    assert [span.name for span in below(collector, job)] == ["sign"]
    assert b"my secret" not in collector.wire


def resumed(tracing: OtlpTracing, kept: dict[str, str]) -> None:
    """Go on with a trace where nothing of it is in progress."""
    with tracing.resume("job", kept), span("sign"):
        pass


@pytest.mark.slow
def test_a_collector_that_is_gone_holds_nothing_up(
    gated_model: LoadedModel, make_client: Callable[..., Client], wait_until: Callable[..., None]
) -> None:
    with Collector() as gone:
        pass
    app = create_app(Settings(otlp_endpoint=gone.endpoint), make_client(gated_model))
    with local_client(app) as web:
        wait_until(lambda: web.get("/readyz").status_code == 200)
        assert web.post("/v1/generate", json=GENERATE).status_code == 200
        begun = time.perf_counter()
    assert time.perf_counter() - begun < 4


@pytest.mark.slow
def test_an_engine_in_its_own_process_is_followed_too(
    collector: Collector, wait_until: Callable[..., None]
) -> None:
    client = Client(EngineProcess(load, EngineConfig(num_threads=1)), model_id="toy")
    with local_client(
        create_app(Settings(otlp_endpoint=collector.endpoint, provenance="off"), client)
    ) as web:
        wait_until(lambda: web.get("/readyz").status_code == 200, 100)
        timings = web.post("/v1/generate", json=GENERATE).json()["timings"]
    stages = below(collector, root(collector))
    assert [stage.name for stage in stages] == STAGES
    for stage, name in zip(stages[1:], ("prefill", "denoise", "decode"), strict=True):
        assert stage.seconds == pytest.approx(timings[name], abs=1e-8)
    assert stages[0].seconds >= timings["queue"]
