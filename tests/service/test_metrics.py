from typing import Any

from starlette.testclient import TestClient

from service.engine.job import IDLE, Status
from service.engine.scheduler import Priority
from service.metrics import Metrics

REFUSED = {"prompt": "a", "n": 0}


def values(web: TestClient) -> dict[str, float]:
    lines = [line for line in web.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_every_request_is_counted_by_its_outcome(gated_web: TestClient) -> None:
    for body in ({"prompt": "a"}, {"prompt": "a"}, REFUSED):
        gated_web.post("/v1/generate", json=body)
    gated_web.post("/v1/understand", json={"prompt": "a"})
    gated_web.get("/v1/models")
    counted = values(gated_web)
    assert counted['hbridge_requests_total{outcome="ok",task="generate"}'] == 2
    assert counted['hbridge_requests_total{outcome="rejected",task="generate"}'] == 1
    assert counted['hbridge_requests_total{outcome="ok",task="understand"}'] == 1
    assert counted['hbridge_requests_rejected_total{reason="invalid_request"}'] == 1
    assert counted['hbridge_request_seconds_count{task="generate"}'] == 3


def test_steps_are_counted_one_by_one_and_prefill_and_decode_once_a_job(gated_web: TestClient) -> None:
    answer = gated_web.post("/v1/generate", json={"prompt": "a", "num_inference_steps": 5, "n": 2}).json()
    counted = values(gated_web)
    assert counted["hbridge_step_seconds_count"] == 5
    for stage in ("queue", "prefill", "decode"):
        assert counted[f"hbridge_{stage}_seconds_count"] == 1
    assert counted["hbridge_prefilled_tokens_total"] == answer["usage"]["prefilled_tokens"]
    assert counted['hbridge_device_seconds_total{task="generate"}'] > 0


def test_firsts_hits_and_missed_deadlines_are_counted(gated_web: TestClient) -> None:
    for _ in range(2):
        gated_web.post("/v1/understand", json={"prompt": "a"})
    counted = values(gated_web)
    assert counted["hbridge_time_to_first_token_seconds_count"] == 2
    assert counted["hbridge_prefix_cache_queries_total"] >= 2
    assert counted["hbridge_prefix_cache_hits_total"] == counted["hbridge_prefix_cache_queries_total"] - 1
    assert counted["hbridge_prefix_cache_bytes"] > 0


def test_restarts_of_the_engine_are_counted() -> None:
    metrics = Metrics()
    metrics.restarted()
    assert b"hbridge_engine_restarts_total 1.0" in metrics.render()


def test_two_apps_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.rejected("queue_full")
    assert b"queue_full" in one.render()
    assert b"queue_full" not in other.render()


def test_what_runs_and_what_waits_is_read_when_it_is_asked_for() -> None:
    metrics = Metrics()
    told: dict[str, Any] = {"running": 0, "status": IDLE}
    metrics.describe(model="m", num_running=lambda: told["running"], status=lambda: told["status"])
    waiting: dict[Priority, int] = {"interactive": 3, "batch": 4}
    told |= {"running": 1, "status": Status(waiting=waiting, queued_device_seconds=2.5, cache_bytes=7)}
    for line in (
        "requests_running 1.0",
        'requests_waiting{priority="interactive"} 3.0',
        'requests_waiting{priority="batch"} 4.0',
        "queued_device_seconds 2.5",
        "prefix_cache_bytes 7.0",
    ):
        assert f"hbridge_{line}" in metrics.render().decode()


def test_jobs_and_webhooks_are_counted() -> None:
    metrics = Metrics()
    metrics.job_ended("edit", "failed")
    metrics.webhook_tried("retried")
    text = metrics.render().decode()
    assert 'hbridge_jobs_total{state="failed",task="edit"} 1.0' in text
    assert 'hbridge_webhooks_total{outcome="retried"} 1.0' in text
