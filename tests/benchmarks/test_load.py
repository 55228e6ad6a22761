import asyncio
from pathlib import Path
from random import Random

import httpx
import pytest

from benchmarks.load import BURST, TASKS, Mix, Outcome, Run, Shot, draw_shots, make_request, page, plot, shoot
from service.app import create_app
from service.loading import create_client
from service.schemas.drawing import EditRequest, GenerateRequest
from service.schemas.question import UnderstandRequest
from service.settings import Settings

MIX = Mix()


@pytest.mark.parametrize("arrivals", ["poisson", "burst"])
def test_requests_arrive_as_often_as_asked_whatever_the_pattern(arrivals: str) -> None:
    shots = draw_shots(Random(0), MIX, rate=50.0, seconds=20, arrivals=arrivals)  # type: ignore[arg-type]
    assert len(shots) == 1000
    dues = [shot.due for shot in shots]
    assert dues == sorted(dues)
    assert dues[-1] == pytest.approx(20, rel=0.3)
    assert len(set(dues)) == (1000 if arrivals == "poisson" else 1000 // BURST)
    assert {shot.task for shot in shots} == set(TASKS)


@pytest.mark.parametrize(
    ("task", "schema"),
    [("generate", GenerateRequest), ("edit", EditRequest), ("understand", UnderstandRequest)],
)
def test_every_request_is_one_that_the_wire_takes(task: str, schema: type) -> None:
    rng = Random(1)
    for _ in range(20):
        schema(**make_request(rng, task, MIX.sizes))


def test_refusals_are_no_latencies_and_all_is_counted(tmp_path: Path) -> None:
    run = Run(title="one", num_shots=4, seconds=2.0, device_seconds=1.0, num_sent=4)
    for status, total in ((200, 0.5), (200, 1.5), (429, 0.01), (0, 0.01)):
        run.outcomes.append(Outcome(task="edit", due=0.0, total=total, status=status, queue=0.1, first=0.2))
    report = run.report()
    assert report["requests"] == {"done": 2, "refused": 1, "failed": 1}
    assert (report["throughput"], report["device_busy"]) == (1.0, 0.5)
    assert report["latency"]["edit"]["total"] == {"p50": 0.5, "p95": 1.5, "p99": 1.5}
    assert report["latency"]["generate"]["total"] == {}, "what was not measured has no latency"
    table = run.__rich__()
    assert len(table.rows) == len(TASKS)
    assert table.caption == "1.0 done a second, device busy: 50%"
    plot([run], tmp_path / "load.png")
    assert (tmp_path / "load.png").stat().st_size > 1000
    about = {"command": "c", "device": "d", "commit": "e", "capacity": report}
    text = page({**about, "runs": [{"share": 0.5, **report}]}, "load.png")
    assert "0.50, 1.50, 1.50" in text


def test_a_shot_is_followed_to_its_end(model_folder: Path) -> None:
    settings = Settings(model=str(model_folder), engine="inline", max_waiting=0, max_prompt_chars=9)
    client = create_client(settings)
    app = create_app(settings, client)
    bodies = [
        ("generate", {"prompt": "red", "num_inference_steps": 4}),
        ("understand", {"prompt": "what?", "max_tokens": 2}),
        ("generate", {"prompt": "longer than it may be"}),
    ]

    async def run_all() -> Run:
        run = Run(title="three", num_shots=len(bodies))
        async with app.router.lifespan_context(app):
            await client.ready()
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as web:
                for task, body in bodies:
                    await shoot(web, Shot(due=0.0, task=task, body=body), run)
        return run

    drawn, answered, refused = asyncio.run(run_all()).outcomes
    assert [each.status for each in (drawn, answered, refused)] == [200, 200, 400]
    assert answered.queue is not None
    assert drawn.queue is not None
    assert drawn.first is not None
    assert drawn.queue < drawn.first <= drawn.total
    assert (refused.queue, refused.first) == (None, None)
