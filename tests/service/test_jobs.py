import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from starlette.testclient import TestClient

from service.database import Database, brief
from service.deps import Service
from service.engine.errors import EngineDraining
from service.engine.inline import InlineEngine
from service.engine.job import LoadedModel
from service.errors import JobNotFound
from service.jobs import Jobs, Order
from service.ledger import JobRow
from service.schemas.drawing import GenerateRequest
from service.settings import Settings
from service.store import FileRow
from service.tenant import LOCAL, Tenant

Web = Callable[..., AbstractContextManager[TestClient]]
ASKED = GenerateRequest(prompt="a secret wish", num_inference_steps=2, metadata={"private": "thing"})


@pytest.fixture
def jobs_web(
    gated_model: LoadedModel, gated: Any, make_web: Web, settings: Settings, database_url: str
) -> Iterator[TestClient]:
    """An app on a database of each kind."""
    changed = settings.model_dump() | {"database_url": database_url}
    with make_web(gated_model, Settings(**changed)) as web:
        gated.num_calls = 0
        yield web
        gated.gate.set()


def call(web: TestClient, function: Callable[..., Any], *arguments: Any) -> Any:
    assert web.portal
    return web.portal.call(function, *arguments)


def jobs_of(web: TestClient) -> Jobs:
    jobs = web.app.state.jobs  # type: ignore[attr-defined]
    assert isinstance(jobs, Jobs)
    return jobs


def service_of(web: TestClient) -> Service:
    service = web.app.state.service  # type: ignore[attr-defined]
    assert isinstance(service, Service)
    return service


def create(web: TestClient, tenant: str = "", **fields: Any) -> JobRow:
    row, _ = call(
        web, jobs_of(web).create, Order(tenant=Tenant(name=tenant), task="generate", asked=ASKED, **fields)
    )
    assert isinstance(row, JobRow)
    return row


def test_many_orders_of_one_key_at_once_are_one_job(jobs_web: TestClient, gated: Any) -> None:
    jobs = jobs_of(jobs_web)
    order = Order(tenant=LOCAL, task="generate", asked=ASKED, key="k")

    async def race() -> list[tuple[JobRow, bool]]:
        return await asyncio.gather(*(jobs.create(order) for _ in range(20)))

    made = call(jobs_web, race)
    assert len({row.id for row, _ in made}) == 1
    assert sum(is_new for _, is_new in made) == 1
    call(jobs_web, jobs.wait, "", made[0][0].id)
    assert gated.num_calls == 2


def test_another_tenants_job_is_not_there_and_its_key_is_its_own(jobs_web: TestClient) -> None:
    jobs = jobs_of(jobs_web)
    one, other = (create(jobs_web, tenant, key="k") for tenant in ("one", "other"))
    assert one.id != other.id
    for method in (jobs.find, jobs.cancel, jobs.wait):
        with pytest.raises(JobNotFound):
            call(jobs_web, method, "other", one.id)
    assert call(jobs_web, jobs.wait, "one", one.id).state == "succeeded"


def test_the_seed_is_drawn_when_the_job_is_made(jobs_web: TestClient, gated: Any) -> None:
    gated.gate.clear()
    row = create(jobs_web)
    assert row.request
    assert '"seed": ' in row.request


def test_nothing_of_a_request_is_logged(jobs_web: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    jobs = jobs_of(jobs_web)
    row = create(jobs_web)
    call(jobs_web, jobs.wait, "", row.id)
    own = [record for record in caplog.records if record.name.startswith("service")]
    assert any(record.getMessage() == "job ended" for record in own)
    for word in ("secret wish", "private"):
        assert not any(word in str(record.__dict__) for record in own)


def test_what_is_logged_of_the_database_does_not_say_what_was_written(jobs_web: TestClient) -> None:
    async def fail(database: Database) -> str:
        try:
            async with database.session() as session:
                session.add(JobRow(id="job-1", tenant="a secret wish"))
        except SQLAlchemyError as error:
            return brief(error)
        return ""

    assert call(jobs_web, fail, service_of(jobs_web).database) == "IntegrityError"


def test_old_jobs_are_forgotten_with_their_files(jobs_web: TestClient, settings: Settings) -> None:
    jobs, database = jobs_of(jobs_web), service_of(jobs_web).database
    old, new = (create(jobs_web, key=key) for key in ("old", "new"))
    for row in (old, new):
        call(jobs_web, jobs.wait, "", row.id)

    async def age() -> None:
        async with database.session() as session:
            await session.execute(update(JobRow).where(JobRow.id == old.id).values(expires=time.time() - 1))

    async def files() -> list[str | None]:
        async with database.session() as session:
            return list(await session.scalars(select(FileRow.job_id)))

    call(jobs_web, age)
    assert len(list((settings.data_dir / "files").iterdir())) == 2
    call(jobs_web, jobs.sweep)
    with pytest.raises(JobNotFound):
        call(jobs_web, jobs.find, "", old.id)
    assert call(jobs_web, jobs.find, "", new.id).state == "succeeded"
    assert call(jobs_web, files) == [new.id]
    assert len(list((settings.data_dir / "files").iterdir())) == 1
    assert create(jobs_web, key="old").id != old.id


def test_who_waits_for_a_job_that_is_left_to_the_next_start_is_told(
    jobs_web: TestClient, gated: Any, wait_until: Callable[..., None]
) -> None:
    gated.gate.clear()
    jobs, service = jobs_of(jobs_web), service_of(jobs_web)
    row = create(jobs_web)
    wait_until(lambda: gated.num_calls == 1)

    async def drain() -> tuple[Any, list[str]]:
        async def follow() -> list[str]:
            return [event.data["state"] async for event in jobs.follow("", row.id, 0)]

        waiting = [asyncio.ensure_future(each) for each in (jobs.wait("", row.id), follow())]
        await asyncio.sleep(0.1)
        service.client.drain()
        gated.gate.set()
        await service.client.stop()
        return await asyncio.gather(*waiting, return_exceptions=True)

    error, states = call(jobs_web, drain)
    assert isinstance(error, EngineDraining), error
    assert states[-1] == "queued"
    assert call(jobs_web, jobs.find, "", row.id).state == "queued"


def test_jobs_are_taken_while_the_engine_starts_again_and_run_once_it_is_up(
    jobs_web: TestClient, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    request = ASKED.model_dump(exclude_unset=True)
    monkeypatch.setattr(InlineEngine, "is_up", False)
    refused = jobs_web.post("/v1/generate", json=request)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_restarting")
    taken = jobs_web.post("/v1/jobs", json={"task": "generate", "request": request})
    assert taken.status_code == 202
    assert taken.json()["state"] == "queued"
    monkeypatch.undo()
    where = taken.headers["location"]
    wait_until(lambda: jobs_web.get(where).json()["state"] == "succeeded")
