import asyncio
import logging
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.access import Access, outcome_of
from service.metrics import Metrics


def test_a_log_line_names_the_request_and_holds_none_of_its_words(
    web: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fields = {"prompt": "my secret", "metadata": {"key": "my secret"}, "num_inference_steps": 1}
    answer = web.post("/v1/generate", json=fields)
    refused = web.post("/v1/generate", json={"prompt": "my secret", "n": 0})
    ours = [record for record in caplog.records if record.name.startswith("service")]
    lines = [record.__dict__ for record in ours if record.getMessage() == "request"]
    assert lines[0]["request"] == answer.headers["x-request-id"] == answer.json()["id"]
    assert (lines[0]["path"], lines[0]["status"]) == ("/v1/generate", 200)
    assert (lines[1]["status"], lines[1]["code"]) == (400, "invalid_request")
    assert refused.headers["x-request-id"] != answer.headers["x-request-id"]
    assert not any("secret" in str(record.__dict__) for record in ours)


def test_an_end_user_who_is_named_for_that_is_in_the_log(
    web: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    web.post("/v1/images/generations", json={"prompt": "a", "user": "u-7"})
    (line,) = [record.__dict__ for record in caplog.records if record.getMessage() == "request"]
    assert line["end_user"] == "u-7"


def test_probes_do_not_fill_the_log(web: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for path in ("/livez", "/readyz", "/metrics"):
        web.get(path)
    assert not any(record.name == "service.access" for record in caplog.records)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "ok"),
        (400, "rejected"),
        (429, "rejected"),
        (503, "rejected"),
        (499, "cancelled"),
        (500, "failed"),
    ],
)
def test_outcomes(status: int, outcome: str) -> None:
    assert outcome_of(status) == outcome


def test_a_fault_is_answered_with_its_requests_id_logged_once_and_counted(
    gated_web: TestClient, gated: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(prompt: Any) -> Any:
        raise KeyError(str(prompt))

    caplog.set_level(logging.INFO)
    gated.prepare = fail
    answer = gated_web.post("/v1/generate", json={"prompt": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    lines = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [line.getMessage() for line in lines] == ["internal error"]
    (line,) = (record for record in caplog.records if record.getMessage() == "request")
    assert line.__dict__["request"] == answer.headers["x-request-id"]
    assert (line.__dict__["status"], line.__dict__["code"]) == (500, "internal_error")
    assert 'outcome="failed",task="generate"} 1.0' in gated_web.get("/metrics").text


def test_a_fault_after_the_answer_has_begun_is_counted_as_one() -> None:
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("late")

    async def send(message: Any) -> None:
        told.append(message)

    metrics = Metrics()
    scope = {"type": "http", "method": "POST", "path": "/v1/generate", "headers": []}
    with pytest.raises(KeyError):
        asyncio.run(Access(app, metrics)(scope, None, send))
    assert [message["type"] for message in told] == ["http.response.start"]
    assert b'outcome="failed",task="generate"} 1.0' in metrics.render()
