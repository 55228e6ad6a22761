import base64
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.engine.job import LoadedModel
from service.settings import Settings
from tests.service.test_webhooks import SECRET, Receiver

BODY = {"prompt": "a red circle", "num_inference_steps": 2, "seed": 5}
ASYNC = {"Prefer": "respond-async"}
Web = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def jobs_web(gated_model: LoadedModel, gated: Any, make_web: Web, settings: Settings) -> Iterator[TestClient]:
    """An app of this test's own, whose steps wait while the gate is closed."""
    with make_web(gated_model, settings) as web:
        gated.num_calls = 0
        yield web
        gated.gate.set()


def ended(web: TestClient, job_id: str, wait_until: Callable[..., None]) -> dict[str, Any]:
    """Return a job when it has ended."""
    seen: dict[str, Any] = {}

    def has_ended() -> bool:
        seen.update(web.get(f"/v1/jobs/{job_id}").json())
        return seen["state"] not in ("queued", "running")

    wait_until(has_ended)
    return seen


def state(web: TestClient, job_id: str) -> str:
    return str(web.get(f"/v1/jobs/{job_id}").json()["state"])


def code(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def events(web: TestClient, job_id: str, after: int | None = None) -> list[tuple[int, str, dict[str, Any]]]:
    """Follow a job to its end."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    answer = web.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.replace("\r\n", "\n").strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


@pytest.mark.parametrize("way", ["prefer", "jobs"])
def test_a_job_comes_to_what_the_endpoint_answers(
    open_web: TestClient, way: str, wait_until: Callable[..., None]
) -> None:
    if way == "prefer":
        answer = open_web.post("/v1/generate", json=BODY, headers=ASYNC)
        assert answer.headers["preference-applied"] == "respond-async"
    else:
        answer = open_web.post("/v1/jobs", json={"task": "generate", "request": BODY})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["object"], job["task"], job["state"]) == ("job", "generate", "queued")
    job = ended(open_web, job["id"], wait_until)
    assert (job["state"], job["error"], job["attempts"]) == ("succeeded", None, 1)
    direct = open_web.post("/v1/generate", json=BODY).json()
    assert job["result"]["images"] == direct["images"]
    assert job["result"]["receipt"] == direct["receipt"]
    assert job["result"].keys() == direct.keys()


def test_every_task_can_be_a_job(
    open_web: TestClient,
    png: Callable[..., bytes],
    png64: Callable[..., str],
    wait_until: Callable[..., None],
) -> None:
    fields = {"prompt": "what is it", "seed": 1, "max_tokens": 3, "metadata": {"mine": "1"}}
    asked = open_web.post("/v1/understand", json=fields | {"image": png64()}, headers=ASYNC).json()
    job = ended(open_web, asked["id"], wait_until)
    direct = open_web.post("/v1/understand", json=fields | {"image": png64()}).json()
    assert job["result"]["answer"] == direct["answer"]
    assert job["metadata"] == job["result"]["metadata"] == {"mine": "1"}
    edit = {"prompt": "make it blue", "seed": "1", "num_inference_steps": "1"}
    asked = open_web.post("/v1/edit", data=edit, files={"image": png()}, headers=ASYNC).json()
    job = ended(open_web, asked["id"], wait_until)
    direct = open_web.post("/v1/edit", data=edit, files={"image": png()}).json()
    assert job["result"]["images"] == direct["images"]


def test_a_large_request_is_a_job_too_and_leaves_no_file(
    jobs_web: TestClient, settings: Settings, wait_until: Callable[..., None], png64: Callable[..., str]
) -> None:
    from io import BytesIO  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    file = BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    fields = {"prompt": "a", "seed": 1, "num_inference_steps": 1, "size": "32x32"}
    fields |= {"image": base64.b64encode(file.getvalue()).decode()}
    job_id = jobs_web.post("/v1/edit", json=fields, headers=ASYNC).json()["id"]
    job = ended(jobs_web, job_id, wait_until)
    assert job["result"]["images"] == jobs_web.post("/v1/edit", json=fields).json()["images"]
    wait_until(lambda: [path.suffix for path in (settings.data_dir / "files").iterdir()] == [".png"])


def test_a_job_says_how_far_it_is(jobs_web: TestClient, gated: Any, wait_until: Callable[..., None]) -> None:
    gated.gate.clear()
    job_id = jobs_web.post("/v1/generate", json=BODY, headers=ASYNC).json()["id"]
    wait_until(lambda: gated.num_calls == 1)
    wait_until(
        lambda: (jobs_web.get(f"/v1/jobs/{job_id}").json()["progress"] or {}).get("stage") == "denoise"
    )
    job = jobs_web.get(f"/v1/jobs/{job_id}").json()
    assert job["state"] == "running"
    assert job["progress"] == {"stage": "denoise", "done": 0, "total": 2}
    assert job["eta_seconds"] >= 0
    assert job["begun"] >= job["created"]
    gated.gate.set()
    job = ended(jobs_web, job_id, wait_until)
    assert (job["progress"]["stage"], job["eta_seconds"]) == ("decode", None)


def test_events_tell_of_every_state_and_go_on_where_one_stopped(
    jobs_web: TestClient, gated: Any, wait_until: Callable[..., None]
) -> None:
    gated.gate.clear()
    job_id = jobs_web.post("/v1/generate", json=BODY, headers=ASYNC).json()["id"]
    wait_until(lambda: gated.num_calls == 1)
    threading.Timer(0.2, gated.gate.set).start()
    seen = events(jobs_web, job_id)
    assert [number for number, _, _ in seen] == list(range(1, len(seen) + 1))
    states = [data["state"] for _, kind, data in seen if kind == "state"]
    assert states == ["queued", "running", "succeeded"]
    assert any(data["progress"]["stage"] == "denoise" for _, kind, data in seen if kind == "progress")
    for after in range(len(seen)):
        assert events(jobs_web, job_id, after) == seen[after:]
    done = jobs_web.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": str(len(seen))})
    assert done.status_code == 204


def test_an_event_id_that_is_none_is_refused(open_web: TestClient, wait_until: Callable[..., None]) -> None:
    job_id = open_web.post("/v1/generate", json=BODY, headers=ASYNC).json()["id"]
    ended(open_web, job_id, wait_until)
    answer = open_web.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "x"})
    assert code(answer) == (400, "invalid_request", "Last-Event-ID")


def test_a_job_can_be_cancelled_while_it_waits_and_while_it_runs(
    jobs_web: TestClient, gated: Any, wait_until: Callable[..., None]
) -> None:
    gated.gate.clear()
    ids = [jobs_web.post("/v1/generate", json=BODY, headers=ASYNC).json()["id"] for _ in range(2)]
    wait_until(lambda: gated.num_calls == 1)
    for job_id in ids:
        answer = jobs_web.delete(f"/v1/jobs/{job_id}")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    gated.gate.set()
    service = jobs_web.app.state.service  # type: ignore[attr-defined]
    wait_until(lambda: service.client.is_idle)
    assert gated.num_calls <= 2
    assert [state(jobs_web, job_id) for job_id in ids] == ["cancelled"] * 2
    assert events(jobs_web, ids[0])[-1][2]["state"] == "cancelled"
    assert 'hbridge_jobs_total{state="cancelled",task="generate"} 2.0' in jobs_web.get("/metrics").text


def test_deleting_a_job_that_has_ended_deletes_what_it_came_to(
    jobs_web: TestClient, settings: Settings, wait_until: Callable[..., None]
) -> None:
    headers = ASYNC | {"Idempotency-Key": "k"}
    job_id = jobs_web.post("/v1/generate", json=BODY, headers=headers).json()["id"]
    ended(jobs_web, job_id, wait_until)
    assert len(list((settings.data_dir / "files").iterdir())) == 1
    job = jobs_web.delete(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["result"], job["deleted"]) == ("succeeded", None, True)
    assert list((settings.data_dir / "files").iterdir()) == []
    again = jobs_web.post("/v1/generate", json=BODY, headers={"Idempotency-Key": "k"})
    assert code(again) == (409, "idempotency_conflict", "Idempotency-Key")


def test_there_is_no_job_of_another_id(open_web: TestClient) -> None:
    for answer in (
        open_web.get("/v1/jobs/job-none"),
        open_web.get("/v1/jobs/job-none/events"),
        open_web.delete("/v1/jobs/job-none"),
    ):
        assert code(answer) == (404, "job_not_found", None)


@pytest.fixture(scope="module")
def open_web(
    loaded: LoadedModel, make_web: Web, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """An app of all tests that leave nothing behind."""
    with make_web(loaded, Settings(data_dir=tmp_path_factory.mktemp("data"), provenance="off")) as web:
        yield web


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"task": "generate"}, ("invalid_request", "request")),
        ({"task": "paint", "request": BODY}, ("invalid_request", "task")),
        ({"task": "generate", "request": BODY, "priority": "batch"}, ("unknown_field", "priority")),
        ({"task": "generate", "request": BODY | {"promt": "a"}}, ("unknown_field", "request.promt")),
        ({"task": "generate", "request": BODY | {"n": 0}}, ("invalid_request", "request.n")),
        ({"task": "generate", "request": BODY | {"size": "nonsense"}}, ("unsupported_size", "request.size")),
        ({"task": "edit", "request": {"prompt": "a", "image": "AAAA"}}, ("invalid_image", "request.image")),
        (
            {"task": "generate", "request": BODY | {"response_format": "binary"}},
            ("invalid_request", "request.response_format"),
        ),
        ({"task": "generate", "request": BODY, "webhook": {}}, ("invalid_request", "webhook.url")),
        (
            {"task": "generate", "request": BODY, "webhook": {"url": "http://example.org", "secret": SECRET}},
            ("invalid_request", "webhook.url"),
        ),
        (
            {"task": "generate", "request": BODY, "webhook": {"url": "https://10.0.0.1", "secret": SECRET}},
            ("invalid_request", "webhook.url"),
        ),
        (
            {"task": "generate", "request": BODY, "webhook": {"url": "https://a.org", "secret": "short"}},
            ("invalid_request", "webhook.secret"),
        ),
        (
            {"task": "generate", "request": BODY, "webhook": "https://example.org"},
            ("invalid_request", "webhook.secret"),
        ),
    ],
)
def test_a_wrong_request_is_no_job(
    open_web: TestClient, body: dict[str, Any], expected: tuple[str, str]
) -> None:
    answer = open_web.post("/v1/jobs", json=body)
    assert answer.status_code == 400, answer.text
    assert code(answer)[1:] == expected


def test_a_job_that_the_engine_refuses_fails_and_says_why(
    open_web: TestClient, wait_until: Callable[..., None]
) -> None:
    body = {"task": "generate", "request": BODY | {"size": "7x7"}}
    job = ended(open_web, open_web.post("/v1/jobs", json=body).json()["id"], wait_until)
    assert (job["state"], job["result"], job["attempts"]) == ("failed", None, 0)
    assert (job["error"]["code"], job["error"]["param"]) == ("unsupported_size", "size")


def test_a_form_that_jobs_do_not_have_is_refused_for_them_alone(open_web: TestClient) -> None:
    body = BODY | {"response_format": "binary"}
    assert code(open_web.post("/v1/generate", json=body, headers=ASYNC))[2] == "response_format"
    assert open_web.post("/v1/generate", json=body).headers["content-type"] == "image/png"


def test_the_same_key_and_request_is_the_same_answer(jobs_web: TestClient, gated: Any) -> None:
    headers = {"Idempotency-Key": "k"}
    without_seed = {"prompt": "a", "num_inference_steps": 2}
    one = jobs_web.post("/v1/generate", json=without_seed, headers=headers)
    num_calls = gated.num_calls
    two = jobs_web.post("/v1/generate", json=without_seed | {"n": 1}, headers=headers)
    assert one.status_code == two.status_code == 200
    assert one.json() == two.json()
    assert gated.num_calls == num_calls
    assert ("idempotent-replayed" in one.headers, two.headers["idempotent-replayed"]) == (False, "true")
    job = jobs_web.post("/v1/generate", json=without_seed, headers=headers | ASYNC)
    assert (job.status_code, job.json()["state"]) == (202, "succeeded")
    assert job.json()["id"] == one.json()["id"]
    assert jobs_web.post("/v1/generate", json=without_seed).json()["id"] != one.json()["id"]


@pytest.mark.parametrize(
    ("path", "other"),
    [
        ("/v1/generate", {"seed": 6}),
        ("/v1/generate", {"metadata": {"a": "b"}}),
        ("/v1/understand", {}),
    ],
)
def test_the_same_key_with_another_request_is_a_conflict(
    jobs_web: TestClient, path: str, other: dict[str, Any]
) -> None:
    headers = {"Idempotency-Key": "k"}
    fields = {"prompt": "a", "seed": 5}
    assert jobs_web.post("/v1/generate", json=fields, headers=headers).status_code == 200
    for extra in ({}, ASYNC):
        answer = jobs_web.post(path, json=fields | other, headers=headers | extra)
        assert code(answer) == (409, "idempotency_conflict", "Idempotency-Key")
    assert "use another key" in answer.json()["error"]["message"]


def test_a_request_with_a_key_can_be_answered_with_a_file(open_web: TestClient) -> None:
    body = BODY | {"response_format": "binary", "output_format": "webp"}
    plain = open_web.post("/v1/generate", json=body)
    keyed = open_web.post("/v1/generate", json=body, headers={"Idempotency-Key": "file"})
    assert keyed.content == plain.content
    for name in ("content-type", "x-seed", "x-model", "x-receipt"):
        assert keyed.headers[name] == plain.headers[name]


def test_twenty_posts_of_one_key_at_once_run_once(jobs_web: TestClient, gated: Any) -> None:
    gated.gate.clear()
    headers = {"Idempotency-Key": "k"}
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(jobs_web.post, "/v1/generate", json=BODY, headers=headers) for _ in range(20)]
        threading.Timer(0.3, gated.gate.set).start()
        got = [answer.result() for answer in answers]
    assert {answer.status_code for answer in got} == {200}
    assert len({answer.text for answer in got}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in got) == 1
    assert gated.num_calls == 2
    assert 'hbridge_jobs_total{state="succeeded",task="generate"} 1.0' in jobs_web.get("/metrics").text


def test_a_request_that_was_refused_leaves_its_key_free(jobs_web: TestClient) -> None:
    headers = {"Idempotency-Key": "k"}
    for wrong in ({"size": "7x7"}, {"size": "nonsense"}, {"deadline_ms": 1}):
        answer = jobs_web.post("/v1/generate", json=BODY | wrong, headers=headers)
        assert answer.status_code in (400, 429, 504), answer.text
        assert answer.status_code != 429 or "retry-after" in answer.headers
    assert jobs_web.post("/v1/generate", json=BODY, headers=headers).status_code == 200


def test_as_many_jobs_wait_as_may(
    gated_model: LoadedModel, gated: Any, make_web: Web, settings: Settings, wait_until: Callable[..., None]
) -> None:
    few = settings.model_copy(update={"max_queued_jobs": 2, "max_waiting": 2})
    with make_web(gated_model, few) as web:
        gated.num_calls = 0
        gated.gate.clear()
        statuses = [web.post("/v1/generate", json=BODY, headers=ASYNC).status_code for _ in range(2)]
        wait_until(lambda: gated.num_calls == 1)
        while statuses[-1] == 202:
            answer = web.post("/v1/generate", json=BODY, headers=ASYNC)
            statuses.append(answer.status_code)
            assert len(statuses) < 60
        assert code(answer)[:2] == (429, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
        gated.gate.set()


def test_links_lead_to_the_pictures(open_web: TestClient, wait_until: Callable[..., None]) -> None:
    body = BODY | {"n": 2, "response_format": "url", "output_format": "jpeg"}
    job_id = open_web.post("/v1/generate", json=body, headers=ASYNC).json()["id"]
    job = ended(open_web, job_id, wait_until)
    keyed = open_web.post("/v1/generate", json=body, headers={"Idempotency-Key": "links"}).json()
    direct = open_web.post("/v1/generate", json=body).json()
    held = open_web.post("/v1/generate", json=body | {"response_format": "b64_json"}).json()
    files = [base64.b64decode(image["b64_json"]) for image in held["images"]]
    for answer in (job["result"], keyed, direct):
        assert all(
            image.keys() == {"url", "seed", "width", "height", "mime_type"} for image in answer["images"]
        )
        got = [open_web.get(image["url"]) for image in answer["images"]]
        assert [each.content for each in got] == files
        assert {each.headers["content-type"] for each in got} == {"image/jpeg"}


def test_whoever_is_named_is_told_of_the_end(
    gated_model: LoadedModel, make_web: Web, settings: Settings, wait_until: Callable[..., None]
) -> None:
    from standardwebhooks import Webhook  # noqa: PLC0415

    receiver = Receiver()
    changed = {"allow_private_webhooks": True, "webhook_pause_seconds": 0.01, "webhook_secret": SECRET}
    receiver.answers = [500]
    try:
        with make_web(gated_model, Settings(**(settings.model_dump() | changed))) as web:
            asked = {"task": "generate", "request": BODY | {"metadata": {"a": "b"}}, "webhook": receiver.url}
            job = web.post("/v1/jobs", json=asked).json()
            assert job["webhook"] == {"state": "waiting", "attempts": 0}
            wait_until(lambda: web.get(f"/v1/jobs/{job['id']}").json()["webhook"]["state"] == "delivered")
    finally:
        receiver.stop()
    assert len(receiver.messages) == 2
    headers, body = receiver.messages[-1]
    told = Webhook(SECRET).verify(body, headers)
    assert told["type"] == "job.succeeded"
    assert (told["data"]["id"], told["data"]["metadata"]) == (job["id"], {"a": "b"})


def test_a_path_says_all_methods_that_it_takes(web: TestClient) -> None:
    answer = web.put("/v1/jobs/job-1")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET")
    assert "DELETE, GET" in answer.json()["error"]["message"]
