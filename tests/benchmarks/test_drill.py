import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.drill import (
    JOB,
    NUM_CLIENTS,
    NUM_JOB_CLIENTS,
    Drill,
    Ended,
    Kill,
    classify,
    finish_job,
    plot,
    run_drill,
)
from benchmarks.local_server import LocalServer

RESTARTING = {"error": {"code": "engine_restarting"}}


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (httpx.Response(200), "done"),
        (httpx.Response(503, json=RESTARTING, headers={"Retry-After": "5"}), "restarting"),
        (httpx.Response(503, json=RESTARTING), "broken"),
        (
            httpx.Response(503, json={"error": {"code": "draining"}}, headers={"Retry-After": "5"}),
            "broken",
        ),
        (httpx.Response(500, json={"error": {"code": "internal_error"}}), "broken"),
        (httpx.Response(503, text="gone", headers={"Retry-After": "5"}), "broken"),
        (httpx.Response(502, json=[]), "broken"),
    ],
)
def test_only_answers_and_clean_refusals_are_whole(response: httpx.Response, outcome: str) -> None:
    assert classify(response)[0] == outcome


def kill(at: float, rss_mib: int = 100, **fields: Any) -> Kill:
    seen = {"unready_seconds": 0.1, "ready_seconds": 5.0, "num_fds": 20}
    return Kill(at=at, rss_bytes=rss_mib * 2**20, **(seen | fields))


def ended(begun: float, end: float, outcome: Any = "done", task: str = "edit") -> Ended:
    return Ended(task=task, begun=begun, ended=end, outcome=outcome)


def drill(*kills: Kill, **fields: Any) -> Drill:
    whole = {"kills": list(kills or [kill(10), kill(20)]), "num_fds_before": 20}
    return Drill(**(whole | fields))


def test_a_drill_in_which_all_went_well_is_clean() -> None:
    job = ended(9, 13, task=JOB)
    seen = drill(ended=[ended(9, 11, "restarting"), ended(12, 13), ended(19, 20.5), job])
    report = seen.report(is_alive=True)
    assert report["clean"], report
    assert report["requests"] == {"restarting": 1, "done": 3}
    assert report["under_way_at_kills"] == {"restarting": 1, "done": 2}
    assert report["jobs_under_way_at_kills"] == 1
    assert report["worst_seconds_to_ready"] == 5.0


@pytest.mark.parametrize(
    ("seen", "check"),
    [
        (drill(ended=[ended(9, 11, "broken")]), "answered_or_refused_cleanly"),
        (drill(ended=[ended(9, 11, "broken", task=JOB)]), "jobs_succeed"),
        (drill(not_alive=["500"]), "always_live"),
        (drill(kill(10, ready_seconds=0.0)), "always_ready_again"),
        (drill(kill(10, unready_seconds=0.0)), "unready_after_every_kill"),
        (drill(kill(10, num_fds=21 + NUM_CLIENTS + NUM_JOB_CLIENTS)), "files_do_not_grow"),
        (drill(*(kill(i, rss_mib=100 + i) for i in range(8))), "memory_does_not_grow"),
    ],
)
def test_one_fault_is_enough_and_is_named(seen: Drill, check: str) -> None:
    report = seen.report(is_alive=True)
    assert not report["clean"]
    assert [name for name, holds in report["checks"].items() if not holds] == [check]


def test_a_server_that_has_ended_is_not_clean() -> None:
    assert not drill().report(is_alive=False)["checks"]["server_is_alive"]


def test_memory_that_settles_after_the_first_kills_does_not_grow() -> None:
    seen = drill(*(kill(i, rss_mib=mib) for i, mib in enumerate((80, 95, 99, 100, 100, 100, 100))))
    assert seen.growth_bytes == 0


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    plot([5.0, 6.0], [100.0, 101.0], tmp_path / "drill.png")
    assert (tmp_path / "drill.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"state": "succeeded"}, ""),
        ({"state": "failed", "error": "given up"}, "failed: given up"),
    ],
)
def test_a_job_is_seen_to_its_end(job: dict[str, Any], words: str) -> None:
    states = iter([{"state": "queued"}, {"state": "running"}, job])

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(202, headers={"location": "/v1/jobs/1"})
        return httpx.Response(200, json=next(states))

    async def run() -> str:
        transport = httpx.MockTransport(serve)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await finish_job(client, "generate", {})

    assert asyncio.run(run()) == words


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kill_is_survived() -> None:
    told: list[str] = []
    with LocalServer(HBRIDGE_MAX_RESTART_PAUSE_SECONDS="0.5") as server:
        report = asyncio.run(run_drill(server, num_kills=1, seed=0, tell=told.append))
    assert len(told) == 1
    assert report["kills"] == 1
    assert report["requests_by_task"][JOB]
    assert report["clean"], report
