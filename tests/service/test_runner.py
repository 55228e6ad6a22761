import base64
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from benchmarks.local_server import LocalServer
from model.images import open_image
from service.engine.job import LoadedModel
from service.ledger import JobRow
from service.settings import Settings
from tests.service.test_webhooks import SECRET, Receiver

BODY = {"prompt": "a red circle", "num_inference_steps": 2, "seed": 5}
ASYNC = {"Prefer": "respond-async"}
LONG = {"prompt": "a red circle", "num_inference_steps": 100, "guidance_scale": 1, "n": 2}
ROUNDING = 2  # of 255: jobs that share a step are not bit-equal to those that do not
Web = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def kept(settings: Settings, database_url: str) -> Settings:
    """Settings that every start of a test's server shares."""
    return Settings(**(settings.model_dump() | {"database_url": database_url}))


@pytest.fixture
def serve(gated_model: LoadedModel, gated: Any, make_web: Web) -> Web:
    """Return a function that runs an app of settings, whose steps wait while the gate is closed."""

    @contextmanager
    def serve(settings: Settings, **limits: int) -> Iterator[TestClient]:
        with make_web(gated_model, settings, **limits) as web:
            gated.num_calls = 0
            yield web

    return serve


def show(web: Any, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = web.get(f"/v1/jobs/{job_id}").json()
    return job


def ended(web: Any, job_id: str, wait_until: Callable[..., None], seconds: float = 20) -> dict[str, Any]:
    wait_until(lambda: show(web, job_id)["ended"] is not None, seconds)
    return show(web, job_id)


def events(web: Any, job_id: str, after: int = 0) -> list[tuple[int, str, str]]:
    text = web.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": str(after)}).text
    blocks = [block for block in text.replace("\r\n", "\n").split("\n\n") if "data: " in block]
    fields = [dict(line.split(": ", 1) for line in block.split("\n") if line[0] != ":") for block in blocks]
    return [(int(each["id"]), each["event"], json.loads(each["data"])["state"]) for each in fields]


def states(web: Any, job_id: str) -> list[str]:
    return [state for _, kind, state in events(web, job_id) if kind == "state"]


def insert(web: TestClient, **fields: Any) -> str:
    """Put a job into the database as another server would have left it."""
    now = time.time()
    whole: dict[str, Any] = {
        "id": "job-left",
        "tenant": "",
        "fingerprint": "f",
        "task": "generate",
        "model": web.app.state.service.client.model_id,  # type: ignore[attr-defined]
        "priority": "interactive",
        "response_format": "b64_json",
        "request": json.dumps(BODY),
        "metadata_": {},
        "created": now,
        "expires": now + 60,
        "owner": "server-gone",
        "lease_until": now - 1,
        "state": "running",
        "attempts": 1,
    }
    row = JobRow(**(whole | fields))
    assert web.portal
    jobs = web.app.state.jobs  # type: ignore[attr-defined]
    web.portal.call(jobs._ledger.insert, row, None)
    web.portal.call(jobs._runner._keep_up)
    jobs._runner.wake()
    return row.id


def test_a_job_that_a_shutdown_cuts_off_goes_on_after_the_next_start(
    gated: Any, serve: Web, kept: Settings, wait_until: Callable[..., None]
) -> None:
    with serve(kept) as web:
        gated.gate.clear()
        ids = [web.post("/v1/generate", json=BODY, headers=ASYNC).json()["id"] for _ in range(2)]
        wait_until(lambda: show(web, ids[0])["progress"] is not None and gated.num_calls > 0)
        wait_until(lambda: show(web, ids[0])["state"] == "running")
        threading.Timer(0.2, gated.gate.set).start()  # the engine ends after a step
    with serve(kept) as web:
        jobs = [ended(web, job_id, wait_until) for job_id in ids]
        assert [(job["state"], job["attempts"]) for job in jobs] == [("succeeded", 1)] * 2
        direct = web.post("/v1/generate", json=BODY).json()
        assert all(job["result"]["images"] == direct["images"] for job in jobs)
        assert states(web, ids[0]) == ["queued", "running", "queued", "running", "succeeded"]
        seen = events(web, ids[0])
        assert [number for number, _, _ in seen] == list(range(1, len(seen) + 1))
        assert events(web, ids[0], after=3) == seen[3:]


def test_the_job_of_a_server_that_is_gone_is_run_again(
    serve: Web, kept: Settings, wait_until: Callable[..., None]
) -> None:
    with serve(kept) as web:
        job_id = insert(web)
        job = ended(web, job_id, wait_until)
        assert (job["state"], job["attempts"]) == ("succeeded", 2)
        assert job["result"]["images"] == web.post("/v1/generate", json=BODY).json()["images"]


@pytest.mark.parametrize(
    ("left", "code"),
    [
        ({"attempts": 3}, "job_given_up"),
        ({"deadline": 1.0}, "deadline_exceeded"),
        ({"deadline": 1.0, "state": "queued", "owner": None, "lease_until": None}, "deadline_exceeded"),
        ({"expires": 1.0, "state": "queued", "owner": None, "lease_until": None}, "job_given_up"),
        ({"request": '{"prompt": "a", "gone": 1}'}, "unknown_field"),
        ({"request": None, "request_file": "gone.json"}, "file_not_found"),
    ],
)
def test_what_cannot_go_on_fails_with_a_reason(
    serve: Web, settings: Settings, wait_until: Callable[..., None], left: dict[str, Any], code: str
) -> None:
    with serve(settings) as web:
        job = ended(web, insert(web, **left), wait_until)
        assert (job["state"], job["error"]["code"], job["result"]) == ("failed", code, None)
        assert job["error"]["message"]


def test_a_full_engine_makes_jobs_wait_and_refuses_none(
    gated: Any, serve: Web, settings: Settings, wait_until: Callable[..., None]
) -> None:
    few = settings.model_copy(update={"max_waiting": 8})
    with serve(few, max_waiting=0, max_running=1) as web:
        gated.gate.clear()
        ids = [web.post("/v1/generate", json=BODY, headers=ASYNC).json()["id"] for _ in range(6)]
        wait_until(lambda: gated.num_calls > 0)
        assert web.post("/v1/generate", json=BODY).status_code == 429
        gated.gate.set()
        assert [ended(web, job_id, wait_until)["state"] for job_id in ids] == ["succeeded"] * 6


def test_jobs_leave_places_to_requests_that_somebody_waits_for(
    gated: Any, serve: Web, settings: Settings, wait_until: Callable[..., None]
) -> None:
    few = settings.model_copy(update={"max_waiting": 4})
    with serve(few, max_waiting=4, max_running=1) as web:
        gated.gate.clear()
        ids = [web.post("/v1/generate", json=BODY, headers=ASYNC).json()["id"] for _ in range(12)]
        client = web.app.state.service.client  # type: ignore[attr-defined]
        wait_until(lambda: gated.num_calls > 0 and client.num_waiting == 2)
        time.sleep(0.1)
        assert client.num_waiting == 2
        gated.gate.set()
        assert web.post("/v1/generate", json=BODY).status_code == 200
        assert [ended(web, job_id, wait_until)["state"] for job_id in ids] == ["succeeded"] * 12


def test_a_fault_of_ours_fails_the_job_and_says_no_more(
    gated: Any,
    serve: Web,
    settings: Settings,
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def decode(latents: Any) -> Any:
        raise RuntimeError("a detail of ours")

    with serve(settings) as web:
        monkeypatch.setattr(gated, "decode", decode, raising=False)
        job_id = web.post("/v1/generate", json=BODY, headers=ASYNC | {"Idempotency-Key": "k"}).json()["id"]
        job = ended(web, job_id, wait_until)
        assert job["error"] == {
            "message": "internal error",
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        }
        again = web.post("/v1/generate", json=BODY, headers={"Idempotency-Key": "k"})
        assert (again.status_code, again.json()["error"]) == (500, job["error"])


class Fleet:
    """Servers that come one after another, all of one database and one store."""

    def __init__(self, folder: Path, database_url: str, model: Path, **settings: str) -> None:
        self.settings = {
            "HBRIDGE_DATA_DIR": str(folder / "data"),
            "HBRIDGE_DATABASE_URL": database_url,
            "HBRIDGE_MODEL": str(model),
            "HBRIDGE_MAX_JOB_ATTEMPTS": "20",
            "HBRIDGE_ALLOW_PRIVATE_WEBHOOKS": "true",
            "HBRIDGE_WEBHOOK_SECRET": SECRET,
            "HBRIDGE_WEBHOOK_PAUSE_SECONDS": "0.1",
            **settings,
        }

    @contextmanager
    def next(self) -> Iterator[tuple[LocalServer, httpx.Client]]:
        with (
            LocalServer(**self.settings) as server,
            httpx.Client(base_url=server.url, timeout=120) as client,
        ):
            yield server, client


def order(client: httpx.Client, number: int, receiver: Receiver) -> str:
    """Ask for a job under a key of its own."""
    body = {"task": "generate", "request": LONG | {"metadata": {"number": str(number)}}}
    body |= {"webhook": receiver.url}
    answer = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": f"key-{number}"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def pixels(answer: dict[str, Any]) -> Any:
    files = [base64.b64decode(image["b64_json"]) for image in answer["images"]]
    return np.stack([np.asarray(open_image(file), dtype=int) for file in files])


def check_whole(client: httpx.Client, job_id: str) -> None:
    """See that a job ended well, once, and that its pictures are whole and the ones of its seed."""
    job = show(client, job_id)
    assert job["state"] == "succeeded", job
    result = job["result"]
    again = client.post("/v1/generate", json=LONG | {"seed": result["receipt"]["seed"]}).json()
    assert np.abs(pixels(result) - pixels(again)).max() <= ROUNDING
    seen = events(client, job_id)
    assert [number for number, _, _ in seen] == list(range(1, len(seen) + 1))
    told = states(client, job_id)
    assert told[-1] == "succeeded"
    assert told.count("succeeded") == 1
    assert 1 <= job["attempts"] <= told.count("running")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_job_outlives_a_server_that_is_killed_in_the_middle(
    tmp_path: Path,
    database_url: str,
    model_folder: Path,
    receiver: Receiver,
    wait_until: Callable[..., None],
) -> None:
    fleet = Fleet(tmp_path, database_url, model_folder)
    num_jobs, ids = 8, {}
    for kill in range(3):
        with fleet.next() as (server, client):
            for number in range(num_jobs):
                job_id = order(client, number, receiver)
                assert ids.setdefault(number, job_id) == job_id
            wait_until(lambda: any(show(client, each)["state"] == "running" for each in ids.values()), 60)
            time.sleep(0.3 * kill)
            os.kill(server.pid, signal.SIGKILL)
    with fleet.next() as (_, client):
        for job_id in ids.values():
            ended(client, job_id, wait_until, 120)
            check_whole(client, job_id)
        assert sum(show(client, job_id)["attempts"] for job_id in ids.values()) > num_jobs
        wait_until(lambda: len({headers["webhook-id"] for headers, _ in receiver.messages}) == num_jobs, 60)
        told = [json.loads(body)["data"] for _, body in receiver.messages]
        assert {each["id"] for each in told} == set(ids.values())
        assert {each["state"] for each in told} == {"succeeded"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_job_outlives_an_engine_that_is_killed_and_a_server_that_is_told_to_stop(
    tmp_path: Path, model_folder: Path, receiver: Receiver, wait_until: Callable[..., None]
) -> None:
    fleet = Fleet(tmp_path, f"sqlite:///{tmp_path}/test.db", model_folder, HBRIDGE_DRAIN_SECONDS="0.1")
    with fleet.next() as (server, client):
        ids = [order(client, number, receiver) for number in range(8)]
        wait_until(lambda: any(show(client, each)["state"] == "running" for each in ids), 60)
        pid = server.engine_pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.engine_pid not in (None, pid), 60)
        wait_until(lambda: client.get("/readyz").is_success, 60)
        wait_until(lambda: any(show(client, each)["state"] == "running" for each in ids), 60)
    with fleet.next() as (_, client):
        for job_id in ids:
            ended(client, job_id, wait_until, 120)
            check_whole(client, job_id)
