import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from service.engine.client import Client
from service.engine.job import LoadedModel
from service.settings import Settings
from service.streaming import EventStream

GENERATE, EDIT, UNDERSTAND = "/v1/generate", "/v1/edit", "/v1/understand"
LONG = {"prompt": "a", "num_inference_steps": 500, "stream": True}


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return names and data of a stream's events."""
    blocks = [
        block.splitlines() for block in text.replace("\r\n", "\n").split("\n\n") if block.startswith("event")
    ]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def streamed(web: TestClient, path: str, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    answer = web.post(path, json={"prompt": "a", "seed": 1, "stream": True} | body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events_of(answer.text)


def without_times(answer: dict[str, Any]) -> dict[str, Any]:
    """Leave out what differs from one time to the next."""
    timed = {"id", "created", "timings", "usage"}
    return {name: value for name, value in answer.items() if name not in timed}


@pytest.mark.parametrize("path", [GENERATE, EDIT, UNDERSTAND])
def test_the_last_event_is_the_answer(web: TestClient, png64: Callable[..., str], path: str) -> None:
    body = {EDIT: {"image": png64()}}.get(path, {})
    events = streamed(web, path, **body)
    whole = web.post(path, json={"prompt": "a", "seed": 1} | body).json()
    assert events[0][0] == "progress"
    assert events[0][1]["stage"] == "queue"
    assert [name for name, _ in events].index("completed") == len(events) - 1
    assert events[-1][1].keys() == whole.keys()
    assert without_times(events[-1][1]) == without_times(whole)
    words = [data["text"] for name, data in events if name == "text_delta"]
    assert "".join(words) == whole.get("answer", "")


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_as_many_looks_come_as_were_asked_for(web: TestClient, count: int) -> None:
    events = streamed(web, GENERATE, partial_images=count, num_inference_steps=6, n=2, output_format="jpeg")
    looks = [data for name, data in events if name == "partial_image"]
    places = [(look["partial_image_index"], look["image_index"]) for look in looks]
    assert places == [(index, image) for index in range(count) for image in range(2)]
    assert {look["mime_type"] for look in looks} <= {"image/jpeg"}


def test_no_more_looks_come_than_there_are_steps_between(web: TestClient) -> None:
    events = streamed(web, GENERATE, partial_images=3, num_inference_steps=2)
    looks = [data["partial_image_index"] for name, data in events if name == "partial_image"]
    assert looks == [0]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"prompt": ""}, 400, "invalid_request"),
        ({"prompt": "a", "size": "33x33"}, 400, "unsupported_size"),
        ({"prompt": "a" * 60, "model": "other"}, 404, "model_not_found"),
        ({"prompt": "a", "deadline_ms": 1, "num_inference_steps": 500}, 429, "deadline_unreachable"),
    ],
)
def test_what_is_refused_before_the_first_event_is_an_ordinary_error(
    web: TestClient, body: dict[str, Any], status: int, code: str
) -> None:
    web.post(GENERATE, json={"prompt": "a"})  # the engine knows what a step takes
    answer = web.post(GENERATE, json=body | {"stream": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("path", [GENERATE, UNDERSTAND])
def test_a_stream_must_be_true_or_false(web: TestClient, path: str) -> None:
    error = web.post(path, json={"prompt": "a", "stream": "yes"}).json()["error"]
    assert error["param"] == "stream"


def test_what_goes_wrong_later_is_the_last_event(
    gated_web: TestClient, gated: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(latents: Any) -> Any:
        raise RuntimeError("secret words")

    caplog.set_level(logging.INFO)
    gated.decode = fail
    name, data = streamed(gated_web, GENERATE)[-1]
    assert (name, data["error"]["code"], data["error"]["message"]) == (
        "error",
        "internal_error",
        "internal error",
    )
    assert "secret words" in caplog.text
    lines = [record.__dict__ for record in caplog.records if record.getMessage() == "request"]
    assert (lines[-1]["status"], lines[-1]["code"]) == (500, "internal_error")
    assert 'outcome="failed",task="generate"} 1.0' in gated_web.get("/metrics").text


@pytest.fixture
def client(gated_model: LoadedModel, make_client: Callable[..., Client]) -> Client:
    return make_client(gated_model)


@pytest.fixture
def running(client: Client, gated: Any, run_server: Callable[..., Any]) -> Iterator[Any]:
    with run_server(Settings(port=0, drain_seconds=0.3), client) as running:
        gated.num_calls = 0
        yield running
        gated.gate.set()


def test_a_client_that_hangs_up_takes_its_job_along(
    running: Any, client: Client, gated: Any, wait_until: Callable[..., None]
) -> None:
    with httpx.stream("POST", f"{running.url}{GENERATE}", json=LONG) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: progress"
        wait_until(lambda: gated.num_calls > 3)
        gated.gate.clear()
        num_calls = gated.num_calls
    wait_until(lambda: client.is_idle)
    gated.gate.set()
    wait_until(lambda: client.num_running == 0)
    assert gated.num_calls <= num_calls + 1
    counted = 'hbridge_requests_total{outcome="cancelled",task="generate"} 1.0'
    wait_until(lambda: counted in httpx.get(f"{running.url}/metrics").text)


def test_a_stream_that_does_not_end_in_time_is_told_that_the_server_drains(
    running: Any, gated: Any, wait_until: Callable[..., None]
) -> None:
    gated.gate.clear()
    with httpx.stream("POST", f"{running.url}{GENERATE}", json=LONG) as answer:
        wait_until(lambda: gated.num_calls == 1)
        running.server.handle_exit(15, None)
        threading.Timer(0.5, gated.gate.set).start()
        events = events_of(answer.read().decode())
    assert (events[-1][0], events[-1][1]["error"]["code"]) == ("error", "draining")


def test_a_silent_stream_is_kept_open(running: Any, gated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventStream, "DEFAULT_PING_INTERVAL", 0.05)
    gated.gate.clear()
    with httpx.stream("POST", f"{running.url}{GENERATE}", json=LONG) as answer:
        lines = answer.iter_lines()
        assert any(line.startswith(":") for line in lines)
