"""A real cluster of this machine: a server and two engines of hbridge-tiny, asked over HTTP."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch
from httpx_sse import connect_sse

from benchmarks.ray_server import RayServer
from model.checkpoint import load
from model.drawing import Drawing
from model.family import Family
from model.pipeline import answer, draw
from model.prompt import Turn
from model.question import Question
from model.registry import resolve
from service.ray_app import REPORT_SECONDS
from tests.service.ray_service import at_once, counted, decoded, encode, picture, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

QUIET_SECONDS = 2 * REPORT_SECONDS + 0.5
"""After which a router knows that there is nothing to do."""
ENDED = ("succeeded", "failed", "cancelled")
LONG = {"prompt": "a red circle", "num_inference_steps": 500, "n": 4}


@pytest.fixture(scope="module")
def service() -> Iterator[RayServer]:
    options = {"engines": 2, "cpus": 0.5}
    with RayServer(options, HBRIDGE_PROVENANCE="off", HBRIDGE_NUM_THREADS="1", OMP_NUM_THREADS="1") as server:
        wait_for(lambda: server.num_engines_up == 2)
        yield server


@pytest.fixture
def web(service: RayServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120) as web:
        yield web


@pytest.fixture(scope="module")
def family() -> Iterator[Family]:
    """The model, computed with as many threads as an engine has, on which the last bits depend."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load(resolve("hbridge-tiny"))
    torch.set_num_threads(num_threads)


def test_what_it_draws_edits_and_says_is_what_the_pipeline_does(web: httpx.Client, family: Family) -> None:
    asked = {"prompt": "a large yellow star on a blue background", "seed": 7, "n": 2}
    drawn = draw(family, Drawing(prompt=asked["prompt"], seed=7, n=2))  # type: ignore[arg-type]
    assert decoded(web.post("/v1/generate", json=asked)) == [each.tobytes() for each in drawn.images]
    image = drawn.images[0]
    encoded = encode(image)
    edited = draw(family, Drawing(prompt="make it red", images=(image,), seed=3))
    told = web.post("/v1/edit", json={"prompt": "make it red", "image": encoded, "seed": 3})
    assert decoded(told) == [each.tobytes() for each in edited.images]
    question = Question(turns=(Turn("user", (image, "what shape is it?")),), max_tokens=12)
    told = web.post(
        "/v1/understand", json={"prompt": "what shape is it?", "image": encoded, "max_tokens": 12}
    )
    assert told.json()["answer"] == answer(family, question).text


def test_the_server_says_of_the_model_what_its_engines_say(web: httpx.Client) -> None:
    (model,) = web.get("/v1/models").json()["data"]
    drawn = web.post("/v1/generate", json={"prompt": "a circle", "num_inference_steps": 1}).json()
    assert model["weights_sha256"] == drawn["receipt"]["weights_sha256"]
    assert web.get("/v1/capabilities").json()["family"] == "hbridge"


def test_a_stream_tells_everything_in_order(web: httpx.Client) -> None:
    asked = {"prompt": "a red square", "stream": True, "partial_images": 2, "num_inference_steps": 40}
    with connect_sse(web, "POST", "/v1/generate", json=asked) as source:
        events = [(event.event, event.json()) for event in source.iter_sse()]
    stages = [data["stage"] for name, data in events if name == "progress"]
    assert stages == sorted(stages, key=["queue", "prefill", "denoise", "decode"].index)
    assert set(stages) == {"queue", "prefill", "denoise", "decode"}
    steps = [data["done"] for name, data in events if name == "progress" and data["stage"] == "denoise"]
    assert steps == sorted(steps)
    assert [data["partial_image_index"] for name, data in events if name == "partial_image"] == [0, 1]
    assert events[-1][0] == "completed"


def test_a_client_that_leaves_frees_its_engine(web: httpx.Client) -> None:
    before = counted(web, "hbridge_cancellations_total", stage="denoise")
    with pytest.raises(httpx.ReadTimeout):
        web.post("/v1/generate", json=LONG, timeout=httpx.Timeout(5, read=1.0))
    wait_for(lambda: counted(web, "hbridge_cancellations_total", stage="denoise") == before + 1, 5)
    assert counted(web, "hbridge_requests_running") == 0
    wait_for(lambda: counted(web, "hbridge_queued_device_seconds") == 0, 5)


def test_what_is_late_is_cut_off_and_what_must_be_late_is_refused(web: httpx.Client) -> None:
    told = web.post("/v1/generate", json={**LONG, "deadline_ms": 1500})
    assert (told.status_code, told.json()["error"]["code"]) == (429, "deadline_unreachable")
    assert int(told.headers["retry-after"]) >= 1
    # Alone each would be in time; so many at once are not, on two engines.
    one = {"prompt": "a red circle", "num_inference_steps": 60}
    began = time.perf_counter()
    assert web.post("/v1/generate", json={**one, "seed": 0}).status_code == 200
    deadline = round(2500 * (time.perf_counter() - began))
    told_all = at_once(
        lambda seed: web.post("/v1/generate", json={**one, "seed": seed, "deadline_ms": deadline}),
        list(range(12)),
    )
    statuses = {told.status_code for told in told_all}
    assert statuses & {429, 504}
    assert statuses <= {200, 429, 504}
    for told in told_all:
        if told.status_code == 504:
            assert told.json()["error"]["code"] == "deadline_exceeded"


def test_edits_of_an_image_go_where_it_is_known(web: httpx.Client) -> None:
    def edit(shade: int, seed: int) -> int:
        asked = {"prompt": f"make it {seed}", "image": picture(shade), "seed": seed, "num_inference_steps": 1}
        told = web.post("/v1/edit", json=asked)
        assert told.status_code == 200, told.text
        return int(told.json()["usage"]["cached_prompt_tokens"])

    time.sleep(QUIET_SECONDS)
    shades = range(10, 250, 30)
    first = [edit(shade, 0) for shade in shades]
    again = [edit(shade, seed) for seed in (1, 2, 3) for shade in shades]
    assert min(again) > max(first)


def test_an_engine_with_too_much_to_do_leaves_jobs_to_the_other(
    service: RayServer, web: httpx.Client
) -> None:
    before = service.engine_seconds()
    asked = {"prompt": "brighter", "image": picture(3), "n": 2, "num_inference_steps": 40}
    told = at_once(lambda seed: web.post("/v1/edit", json={**asked, "seed": seed}), list(range(12)))
    assert {each.status_code for each in told} == {200}
    after = service.engine_seconds()
    assert all(after[pid] - before[pid] > 0.5 for pid in before)


def test_a_lost_engine_costs_no_job_and_clean_refusals_only(service: RayServer, web: httpx.Client) -> None:
    restarts = counted(web, "hbridge_engine_restarts_total")
    killed: list[int] = []

    def ask(number: int) -> tuple[str, httpx.Response]:
        if number == 30:
            killed.append(service.engine_pids[0])
            os.kill(killed[0], signal.SIGKILL)
        asked: dict[str, Any] = {"prompt": f"a red circle {number}", "seed": number, "num_inference_steps": 8}
        if number % 2:
            return "now", web.post("/v1/generate", json=asked)
        return "later", web.post("/v1/generate", json=asked, headers={"Prefer": "respond-async"})

    told = at_once(ask, list(range(100)))
    assert killed
    refused = [each for way, each in told if way == "now" and each.status_code != 200]
    for each in refused:
        assert each.status_code == 503, each.text
        assert each.json()["error"]["code"] in {"engine_restarting", "engine_not_ready"}
        assert int(each.headers["retry-after"]) >= 1
    assert len(refused) < 25
    jobs = [each for way, each in told if way == "later"]
    assert {each.status_code for each in jobs} == {202}
    ends = [wait_for(lambda each=each: ended(web, each.json()["id"]), 120) for each in jobs]
    assert [end["state"] for end in ends] == ["succeeded"] * 50
    wait_for(lambda: service.num_engines_up == 2, 120)
    assert killed[0] not in service.engine_pids
    assert counted(web, "hbridge_engine_restarts_total") == restarts + 1


def ended(web: httpx.Client, job_id: str) -> dict[str, Any] | None:
    job: dict[str, Any] = web.get(f"/v1/jobs/{job_id}").json()
    return job if job["state"] in ENDED else None
