import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.drawing import Drawing
from model.pipeline import answer, draw
from model.prompt import Turn
from model.question import Question
from service.app import create_app
from service.engine.client import Client
from service.engine.engine import EngineConfig
from service.engine.inline import InlineEngine
from service.engine.job import IDLE, LoadedModel, Status
from service.engine.process import EngineProcess, WatchConfig
from service.engine.scheduler import Priority
from service.metrics import FORGETTING, Metrics
from service.settings import Settings
from tests.service.engine.toy import load
from tests.service.local_client import local_client

API = {
    *("requests_total", "requests_rejected_total", "requests_running", "requests_waiting", "queue_seconds"),
    *("request_seconds", "prefill_seconds", "prefilled_tokens_total", "step_seconds", "decode_seconds"),
    *("time_to_first_token_seconds", "time_to_first_preview_seconds", "step_rows", "step_tokens"),
    *("steps_total", "prefix_cache_queries_total", "prefix_cache_hits_total", "prefix_cache_bytes"),
    *("cancellations_total", "wasted_device_seconds_total", "deadline_missed_total", "device_seconds_total"),
    *("queued_device_seconds", "model_flops_total", "mfu_ratio", "engine_restarts_total"),
    *("device_busy_seconds_total", "fetch_blocked_total", "jobs_total", "webhooks_total", "build_info"),
    "eager_fallback_total",
}
"""What the API promises; all of them begin with hbridge_."""
PROCESS = {f"process_{name}" for name in ("start_time_seconds", "resident_memory_bytes", "cpu_seconds_total")}
"""What Prometheus' own client tells of the process, on Linux."""
LABELS = {"task", "outcome", "state", "reason", "priority", "mode", "stage", "version", "model", "le"}
PEAK = 1e15
REFUSED = {"prompt": "a", "n": 0}
STAGES = ("prefill", "step", "decode")


def values(web: TestClient | httpx.Client) -> dict[str, float]:
    """Return every sample as it is told, without the prefix."""
    lines = [line for line in web.get("/metrics").text.splitlines() if not line.startswith("#")]
    told = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
    return {name.removeprefix("hbridge_"): value for name, value in told.items()}


Serve = Callable[..., Any]


@pytest.fixture
def serve(gated_model: LoadedModel, gated: Any, wait_until: Callable[..., None]) -> Serve:
    """Return a context manager: an app that is ready and has counted nothing yet."""

    @contextmanager
    def run(**config: Any) -> Iterator[TestClient]:
        host = InlineEngine(lambda: gated_model, EngineConfig(**config))
        app = create_app(Settings(peak_flops=PEAK), Client(host, model_id="tiny"))
        with local_client(app, raise_server_exceptions=False) as web:
            wait_until(lambda: web.get("/readyz").status_code == 200)
            yield web
            gated.gate.set()

    return run


def test_what_is_told_is_what_the_api_promises_each_with_its_kind_and_meaning(serve: Serve) -> None:
    with serve() as web:
        text = web.get("/metrics").text
    told = {family.name: family for family in text_string_to_metric_families(text)}
    names = {name + ("_total" if family.type == "counter" else "") for name, family in told.items()}
    assert {name for name in names if not name.startswith("process_")} == {f"hbridge_{name}" for name in API}
    assert names >= PROCESS
    for name, family in told.items():
        assert family.documentation.endswith(".")
        assert family.type == "histogram" or not name.endswith(("_seconds_count", "_seconds_sum"))


def test_labels_are_few_and_name_no_request(serve: Serve) -> None:
    with serve() as web:
        for path in ("generate", "understand"):
            web.post(f"/v1/{path}", json={"prompt": "my secret"})
        text = web.get("/metrics").text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels.keys() <= LABELS
    assert "secret" not in text
    assert "req-" not in text


def test_what_may_happen_is_there_before_it_has(serve: Serve) -> None:
    with serve() as web:
        told = values(web)
    for name in (
        *('requests_total{outcome="failed",task="edit"}', 'device_seconds_total{task="understand"}'),
        *('steps_total{mode="skipped"}', 'cancellations_total{stage="denoise"}', "model_flops_total"),
        *("mfu_ratio", 'queue_seconds_count{priority="batch"}', "engine_restarts_total", "requests_running"),
        *('requests_rejected_total{reason="queue_full"}', 'jobs_total{state="failed",task="edit"}'),
        *('webhooks_total{outcome="retried"}', 'fetch_blocked_total{reason="address"}'),
        *('device_busy_seconds_total{stage="answer"}', 'request_seconds_count{task="generate"}'),
    ):
        assert told[name] == 0
    assert sum(value for name, value in told.items() if name.startswith("build_info")) == 1


def test_without_the_devices_peak_there_is_no_ratio_of_its_use(web: TestClient) -> None:
    assert "model_flops_total" in values(web)
    assert "mfu_ratio" not in values(web)


def test_a_known_load_is_counted_exactly(serve: Serve, png64: Callable[..., str]) -> None:
    drawing = {"prompt": "a", "negative_prompt": "b", "num_inference_steps": 5, "n": 2}
    asked = [
        ("generate", drawing),
        ("generate", drawing),
        ("edit", {"prompt": "c", "num_inference_steps": 3, "image": png64()}),
        ("understand", {"prompt": "d", "max_tokens": 4}),
        ("understand", {"prompt": "d", "max_tokens": 4}),
    ]
    with serve() as web:
        begun = time.perf_counter()
        answers = [web.post(f"/v1/{path}", json=body).json() for path, body in asked]
        wall = time.perf_counter() - begun
        told = values(web)
    usages, timings = ([answer[name] for answer in answers] for name in ("usage", "timings"))
    for task, count in (("generate", 2), ("edit", 1), ("understand", 2)):
        assert told[f'requests_total{{outcome="ok",task="{task}"}}'] == count
        assert told[f'request_seconds_count{{task="{task}"}}'] == count
    answered = sum(told[f'request_seconds_sum{{task="{task}"}}'] for task in {task for task, _ in asked})
    assert sum(each["total"] for each in timings) <= answered <= wall
    assert told['queue_seconds_count{priority="interactive"}'] == 5
    assert told['queue_seconds_count{priority="batch"}'] == 0
    queued = sum(each["queue"] for each in timings)
    assert told['queue_seconds_sum{priority="interactive"}'] == pytest.approx(queued)
    assert told["prefilled_tokens_total"] == sum(each["prefilled_tokens"] for each in usages)
    assert told["prefill_seconds_count"] == 5
    assert told["step_seconds_count"] == told['steps_total{mode="computed"}'] == 5 + 5 + 3
    assert told['steps_total{mode="skipped"}'] == 0
    assert told["step_rows_sum"] == sum(each.get("network_calls", 0) for each in usages)
    assert told["decode_seconds_count"] == 3
    assert told["time_to_first_token_seconds_count"] == 2
    assert 0 < told["time_to_first_token_seconds_sum"] <= sum(each["total"] for each in timings[3:])
    assert told["time_to_first_preview_seconds_count"] == 0
    assert told["prefix_cache_bytes"] > 0
    for task, places in (("generate", (0, 1)), ("edit", (2,)), ("understand", (3, 4))):
        spent = sum(usages[place]["device_seconds"] for place in places)
        assert told[f'device_seconds_total{{task="{task}"}}'] == pytest.approx(spent)
    nothing = ("wasted_device_seconds_total", "deadline_missed_total", "requests_running")
    assert all(told[name] == 0 for name in (*nothing, "queued_device_seconds", "engine_restarts_total"))


def test_prompts_are_asked_for_once_a_branch_and_hit_when_they_come_again(serve: Serve) -> None:
    body = {"prompt": "a", "negative_prompt": "b", "num_inference_steps": 1}
    with serve() as web:
        for num_asked in (1, 2, 3):
            branches = web.post("/v1/generate", json=body).json()["receipt"]["guidance"]["branches"]
            told = values(web)
            assert told["prefix_cache_queries_total"] == num_asked * len(branches) == num_asked * 2
            assert told["prefix_cache_hits_total"] == (num_asked - 1) * 2


def test_rows_and_tokens_of_a_step_are_those_of_its_pictures_and_branches(serve: Serve) -> None:
    body = {"prompt": "a", "num_inference_steps": 4, "n": 3, "size": "64x32", "guidance_scale": 1}
    with serve() as web:
        web.post("/v1/generate", json=body)
        told = values(web)
    assert told["step_rows_sum"] == 4 * 3
    assert told["step_tokens_sum"] == 4 * 3 * (64 // 16) * (32 // 16)
    assert told['step_rows_bucket{le="4.0"}'] - told['step_rows_bucket{le="2.0"}'] == 4


def test_all_time_on_the_device_is_somebodys(serve: Serve) -> None:
    with serve() as web:
        for n in (1, 2):
            web.post("/v1/generate", json={"prompt": "a", "num_inference_steps": 3, "n": n})
        told = values(web)
    spent = sum(told[f"{stage}_seconds_sum"] for stage in STAGES)
    assert told['device_seconds_total{task="generate"}'] == pytest.approx(spent)


def test_the_device_is_busy_for_as_long_as_all_steps_take_those_of_answers_and_of_the_lost_too(
    serve: Serve, gated: Any
) -> None:
    with serve() as web:
        web.post("/v1/generate", json={"prompt": "a", "num_inference_steps": 3})
        web.post("/v1/understand", json={"prompt": "b", "max_tokens": 4})
        well = values(web)
        gated.decode = None
        web.post("/v1/generate", json={"prompt": "a", "num_inference_steps": 3})
        told = values(web)
    stages = ("prefill", "denoise", "decode", "answer")
    busy, later = (
        sum(each[f'device_busy_seconds_total{{stage="{name}"}}'] for name in stages) for each in (well, told)
    )
    tasks = ("generate", "understand")
    assert busy == pytest.approx(sum(well[f'device_seconds_total{{task="{task}"}}'] for task in tasks))
    assert well['device_busy_seconds_total{stage="answer"}'] > 0
    assert told['device_seconds_total{task="generate"}'] == well['device_seconds_total{task="generate"}']
    assert later > busy


def test_who_waited_is_told_by_priority(serve: Serve) -> None:
    with serve() as web:
        web.post("/v1/generate", json={"prompt": "a", "num_inference_steps": 1, "priority": "batch"})
        told = values(web)
    assert told['queue_seconds_count{priority="batch"}'] == 1
    assert told['queue_seconds_count{priority="interactive"}'] == 0


def test_operations_are_those_that_pytorch_counts_in_the_same_requests(
    serve: Serve, loaded: LoadedModel
) -> None:
    turns = (Turn("user", ("c",)),)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        draw(loaded.family, Drawing(prompt="a", negative_prompt="b", n=2, num_inference_steps=3, seed=1))
        answer(loaded.family, Question(turns=turns, max_tokens=5))
    body = {"prompt": "a", "negative_prompt": "b", "n": 2, "num_inference_steps": 3, "seed": 1}
    with serve() as web:
        web.post("/v1/generate", json=body)
        drawn = values(web)
        web.post("/v1/understand", json={"prompt": "c", "max_tokens": 5})
        told = values(web)
    assert told["model_flops_total"] == counter.get_total_flops()
    rate = drawn["model_flops_total"] / sum(drawn[f"{stage}_seconds_sum"] for stage in STAGES)
    assert 0.7 < drawn["mfu_ratio"] / (rate / PEAK) < 1.4


def test_the_ratio_of_use_is_that_of_the_last_steps() -> None:
    metrics = Metrics()
    metrics.describe(model="m", num_running=lambda: 0, status=lambda: IDLE, peak_flops=1000.0)
    assert b"hbridge_mfu_ratio 0.0" in metrics.render()
    metrics.computed(100, 0.5)
    assert b"hbridge_mfu_ratio 0.2" in metrics.render()
    for _ in range(1000):
        metrics.computed(300, 0.5)
    assert metrics.flops_per_second == pytest.approx(600, rel=FORGETTING**1000 + 1e-9)
    assert b"hbridge_model_flops_total 300100.0" in metrics.render()


def test_what_runs_and_what_waits_is_told_and_what_finds_no_room_counted(
    serve: Serve, gated: Any, wait_until: Callable[..., None]
) -> None:
    with serve(max_running=1, max_waiting=2) as web, ThreadPoolExecutor() as threads:
        web.post("/v1/generate", json={"prompt": "a"})
        gated.gate.clear()
        sent = [threads.submit(web.post, "/v1/generate", json={"prompt": "a"})]
        wait_until(lambda: values(web)["requests_running"] == 1)
        for priority in ("interactive", "batch"):
            body = {"prompt": "a", "priority": priority}
            sent.append(threads.submit(web.post, "/v1/generate", json=body))
            wait_until(lambda name=priority: values(web)[f'requests_waiting{{priority="{name}"}}'] == 1)
        held = values(web)
        assert web.post("/v1/generate", json={"prompt": "a"}).status_code == 429
        gated.gate.set()
        assert [each.result().status_code for each in sent] == [200] * 3
        told = values(web)
    assert held["queued_device_seconds"] > 0
    assert told["requests_running"] == told["queued_device_seconds"] == 0
    assert not any(value for name, value in told.items() if name.startswith("requests_waiting"))
    assert told['requests_rejected_total{reason="queue_full"}'] == 1
    assert told['requests_total{outcome="rejected",task="generate"}'] == 1


def test_a_missed_deadline_is_counted_with_what_it_wasted(serve: Serve, gated: Any) -> None:
    def velocity(rows: Any) -> Any:
        time.sleep(0.06)
        return gated._family.velocity(rows)

    with serve() as web:
        gated.velocity = velocity
        body = {"prompt": "a", "deadline_ms": 200, "num_inference_steps": 500}
        assert web.post("/v1/generate", json=body).status_code == 504
        told = values(web)
    assert told["deadline_missed_total"] == told['cancellations_total{stage="denoise"}'] == 1
    assert 0.1 < told["wasted_device_seconds_total"] < 5
    assert told['requests_rejected_total{reason="deadline_exceeded"}'] == 1
    assert told['device_seconds_total{task="generate"}'] == 0


def test_who_leaves_is_counted_by_the_stage_and_what_it_wasted(
    gated_model: LoadedModel,
    gated: Any,
    make_client: Callable[..., Client],
    run_server: Any,
    wait_until: Callable[..., None],
) -> None:
    with (
        run_server(Settings(port=0), make_client(gated_model)) as running,
        httpx.Client(base_url=running.server.url) as web,
    ):
        gated.gate.clear()
        with pytest.raises(httpx.ReadTimeout):
            web.post("/v1/generate", json={"prompt": "a"}, timeout=0.3)
        wait_until(lambda: running.server.client.is_idle)
        gated.gate.set()
        wait_until(lambda: values(web)['cancellations_total{stage="denoise"}'] == 1)
        told = values(web)
    assert told['requests_total{outcome="cancelled",task="generate"}'] == 1
    assert told["wasted_device_seconds_total"] > 0.2


def test_a_preview_and_a_fault_are_counted(serve: Serve, gated: Any) -> None:
    with serve() as web:
        body = {"prompt": "a", "num_inference_steps": 4, "stream": True, "partial_images": 2}
        web.post("/v1/generate", json=body)
        looked = values(web)
        gated.decode = None
        web.post("/v1/generate", json={"prompt": "a", "num_inference_steps": 1})
        told = values(web)
    assert looked["time_to_first_preview_seconds_count"] == 1
    assert looked["time_to_first_preview_seconds_sum"] <= looked['request_seconds_sum{task="generate"}']
    assert told['requests_total{outcome="failed",task="generate"}'] == 1
    assert told['requests_total{outcome="ok",task="generate"}'] == 1


def test_an_image_that_is_not_fetched_is_counted_by_the_reason(serve: Serve) -> None:
    with serve() as web:
        body = {"prompt": "a", "image": "https://127.0.0.1/a.png"}
        assert web.post("/v1/edit", json=body).status_code == 400
        told = values(web)
    assert told['fetch_blocked_total{reason="disabled"}'] == 1
    assert told['requests_total{outcome="rejected",task="edit"}'] == 1


def test_every_refusal_is_counted_by_its_code(serve: Serve) -> None:
    with serve() as web:
        for body in ({"prompt": "a", "n": 0}, {"prompt": "a", "m": 0}, {"prompt": "a", "size": "17x17"}):
            web.post("/v1/generate", json=body)
        web.get("/v1/models")
        told = values(web)
    for code in ("invalid_request", "unknown_field", "unsupported_size"):
        assert told[f'requests_rejected_total{{reason="{code}"}}'] == 1
    assert told['requests_total{outcome="rejected",task="generate"}'] == 3
    assert told['request_seconds_count{task="generate"}'] == 3


@pytest.mark.slow
def test_restarts_of_the_engine_and_what_its_process_counts_are_counted_here(
    wait_until: Callable[..., None],
) -> None:
    watch = WatchConfig(min_pause_seconds=0.01, max_pause_seconds=0.02)
    client = Client(EngineProcess(load, EngineConfig(num_threads=1), watch), model_id="toy")
    with local_client(create_app(Settings(), client)) as web:
        for num_restarts in (0, 1):
            wait_until(lambda: web.get("/readyz").status_code == 200, 100)
            assert web.post("/v1/generate", json={"prompt": "a"}).status_code == 200
            told = values(web)
            assert told["engine_restarts_total"] == num_restarts
            assert told["step_seconds_count"] == 2 * (num_restarts + 1)
            assert told["model_flops_total"] == 4 * (num_restarts + 1)
            if not num_restarts:
                os.kill(int(client.card.weights_hash), signal.SIGKILL)
                wait_until(lambda: web.get("/readyz").status_code == 503)


def test_two_apps_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.rejected("queue_full")
    assert b'{reason="queue_full"} 1.0' in one.render()
    assert b'{reason="queue_full"} 0.0' in other.render()


def test_what_is_to_be_done_is_read_when_it_is_asked_for() -> None:
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


def test_stacks_that_fit_no_prepared_size_are_counted_by_reason() -> None:
    metrics = Metrics()
    metrics.fell_back("rows", 4)
    told = metrics.render().decode()
    assert 'hbridge_eager_fallback_total{reason="rows"} 4.0' in told
    assert 'hbridge_eager_fallback_total{reason="tokens"} 0.0' in told
