import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import update

from model.request import Progress
from service import ledger as ledger_module
from service.bell import Bell
from service.database import Database
from service.errors import InvalidRequest, keep
from service.ledger import JobRow, KeyTaken, LeaseLost, Ledger
from service.webhooks import DeliveryRow, new_delivery

STEP = Progress(stage="denoise", done=1, total=4, eta_seconds=2.0)
ERROR = keep(InvalidRequest("wrong", param="size"))


def job(job_id: str = "job-1", **fields: Any) -> JobRow:
    now = time.time()
    whole: dict[str, Any] = {
        "tenant": "",
        "fingerprint": "f",
        "task": "generate",
        "model": "tiny",
        "priority": "interactive",
        "response_format": "b64_json",
        "request": '{"prompt": "a"}',
        "metadata_": {"mine": "1"},
        "created": now,
        "expires": now + 60,
    }
    return JobRow(id=job_id, **(whole | fields))


class Desk:
    """Two servers' ledgers of one database."""

    def __init__(self, database: Database, retention_seconds: float = 60) -> None:
        self.database = database
        self.one, self.two = (Ledger(database, Bell(), retention_seconds=retention_seconds) for _ in range(2))

    async def claimed(self, job_id: str = "job-1", **fields: Any) -> JobRow:
        await self.one.insert(job(job_id, **fields), None)
        row = await self.one.claim("tiny", {})
        assert row
        assert row.id == job_id
        return row

    async def let_lapse(self) -> None:
        async with self.database.session() as session:
            await session.execute(update(JobRow).values(lease_until=time.time() - 1))

    async def found(self, job_id: str = "job-1") -> JobRow:
        row = await self.one.find("", job_id)
        assert row
        return row

    async def told(self, job_id: str = "job-1") -> list[tuple[int, str, str]]:
        return [(each.number, each.kind, each.data["state"]) for each in await self.one.events(job_id, 0)]


Run = Callable[[Callable[[Desk], Awaitable[None]]], None]


@pytest.fixture
def run(database_url: str) -> Run:
    def run(test: Callable[[Desk], Awaitable[None]]) -> None:
        async def started() -> None:
            database = Database(database_url)
            await database.start()
            try:
                await test(Desk(database))
            finally:
                await database.stop()

        asyncio.run(started())

    return run


def test_every_change_is_an_event_and_they_are_numbered_without_a_gap(run: Run) -> None:
    async def test(desk: Desk) -> None:
        await desk.claimed()
        await desk.one.note("job-1", Progress(stage="queue", done=0, total=1), "queued")
        await desk.one.begin("job-1", STEP)
        await desk.one.note("job-1", STEP, "running")
        await desk.one.succeed("job-1", {"answer": "yes"}, [])
        assert await desk.told() == [
            (1, "state", "queued"),
            (2, "progress", "queued"),
            (3, "state", "running"),
            (4, "progress", "running"),
            (5, "state", "succeeded"),
        ]
        assert [each.number for each in await desk.one.events("job-1", 3)] == [4, 5]

    run(test)


def test_a_job_says_how_far_it_is_and_what_came_of_it(run: Run) -> None:
    async def test(desk: Desk) -> None:
        await desk.claimed()
        await desk.one.begin("job-1", STEP)
        row = await desk.found()
        assert row.progress == {"stage": "denoise", "done": 1, "total": 4}
        assert row.attempts == 1
        assert row.done_at == pytest.approx(time.time() + 2, abs=1)
        await desk.one.succeed("job-1", {"answer": "yes"}, ["a.png"])
        row = await desk.found()
        assert (row.state, row.result, row.files, row.has_ended) == (
            "succeeded",
            {"answer": "yes"},
            ["a.png"],
            True,
        )
        assert row.owner is row.done_at is None
        assert row.begun <= row.ended <= row.expires  # type: ignore[operator]

    run(test)


def test_a_request_is_forgotten_when_its_job_has_ended(run: Run) -> None:
    async def test(desk: Desk) -> None:
        for job_id in ("job-1", "job-2", "job-3"):
            await desk.claimed(job_id)
        await desk.one.succeed("job-1", {}, [])
        await desk.one.fail("job-2", ERROR)
        await desk.one.cancel("job-3")
        async with desk.database.session() as session:
            for job_id in ("job-1", "job-2", "job-3"):
                assert (await session.get_one(JobRow, job_id)).request is None

    run(test)


def test_what_has_ended_stays_as_it_ended(run: Run) -> None:
    async def test(desk: Desk) -> None:
        await desk.claimed()
        assert await desk.one.cancel("job-1")
        assert not await desk.one.cancel("job-1")
        assert not await desk.one.fail("job-1", ERROR)
        assert not await desk.one.fail("job-1", ERROR, is_ours=False)
        for late in (
            desk.one.succeed("job-1", {}, []),
            desk.one.note("job-1", STEP, "running"),
            desk.one.begin("job-1", STEP),
        ):
            with pytest.raises(LeaseLost):
                await late
        await desk.one.release("job-1", has_begun=True, reason="late")
        assert (await desk.found()).state == "cancelled"
        assert await desk.told() == [(1, "state", "queued"), (2, "state", "cancelled")]

    run(test)


def test_a_key_is_one_tenants_and_of_one_job(run: Run) -> None:
    async def test(desk: Desk) -> None:
        await desk.one.insert(job("job-1", key="k"), None)
        await desk.one.insert(job("job-2", key="k", tenant="else"), None)
        await desk.one.insert(job("job-3"), None)
        await desk.one.insert(job("job-4"), None)
        with pytest.raises(KeyTaken):
            await desk.two.insert(job("job-5", key="k"), new_delivery("job-5", "https://a", "s"))
        assert await desk.one.find("", "job-5") is None
        assert await desk.one.delivery("job-5") is None
        found = await desk.two.find_key("else", "k")
        assert found
        assert found.id == "job-2"
        assert await desk.two.find_key("nobody", "k") is None

    run(test)


def test_a_job_of_another_tenant_is_not_found(run: Run) -> None:
    async def test(desk: Desk) -> None:
        await desk.one.insert(job(tenant="one"), None)
        assert await desk.one.find("one", "job-1")
        assert await desk.one.find("other", "job-1") is None

    run(test)


def test_many_who_claim_at_once_get_every_job_once(run: Run) -> None:
    async def test(desk: Desk) -> None:
        for number in range(6):
            await desk.one.insert(job(f"job-{number}"), None)
        rows = await asyncio.gather(*(each.claim("tiny", {}) for each in (desk.one, desk.two) * 10))
        claimed = [row.id for row in rows if row]
        assert len(claimed) == len(set(claimed))
        while row := await desk.one.claim("tiny", {}):
            claimed.append(row.id)
        assert sorted(claimed) == [f"job-{number}" for number in range(6)]

    run(test)


def test_interactive_jobs_go_first_then_whose_tenant_has_least_then_the_oldest(run: Run) -> None:
    async def test(desk: Desk) -> None:
        await desk.one.insert(job("job-1", tenant="a", created=1, priority="batch"), None)
        await desk.one.insert(job("job-2", tenant="a", created=2), None)
        await desk.one.insert(job("job-3", tenant="a", created=3), None)
        await desk.one.insert(job("job-4", tenant="b", created=4), None)
        await desk.one.insert(job("job-5", tenant="b", created=5, model="other"), None)
        order = []
        flying: dict[str, int] = {}
        while row := await desk.one.claim("tiny", flying):
            order.append(row.id)
            flying[row.tenant] = flying.get(row.tenant, 0) + 1
        assert order == ["job-2", "job-4", "job-3", "job-1"]

    run(test)


def test_a_server_that_lives_keeps_its_jobs(run: Run) -> None:
    async def test(desk: Desk) -> None:
        await desk.claimed()
        assert await desk.two.orphans() == []
        await desk.let_lapse()
        await desk.one.keep(["job-1"])
        assert await desk.two.orphans() == []

    run(test)


def test_the_jobs_of_a_server_that_ended_are_taken_over_and_it_can_write_no_more(run: Run) -> None:
    async def test(desk: Desk) -> None:
        await desk.claimed()
        await desk.one.begin("job-1", STEP)
        await desk.let_lapse()
        (orphan,) = await desk.two.orphans()
        assert await desk.two.adopt(orphan)
        assert not await desk.one.adopt(orphan)
        row = await desk.two.claim("tiny", {})
        assert row
        assert row.request == '{"prompt": "a"}'
        await desk.two.begin("job-1", STEP)
        await desk.one.keep(["job-1"])
        for late in (desk.one.succeed("job-1", {"late": 1}, []), desk.one.note("job-1", STEP, "running")):
            with pytest.raises(LeaseLost):
                await late
        assert not await desk.one.fail("job-1", ERROR)
        await desk.two.succeed("job-1", {}, [])
        row = await desk.found()
        assert (row.state, row.attempts, row.result) == ("succeeded", 2, {})
        states = [state for _, _, state in await desk.told()]
        assert states == ["queued", "running", "queued", "running", "succeeded"]

    run(test)


@pytest.mark.parametrize(
    ("has_begun", "is_suspect", "attempts"),
    [(False, False, 0), (True, False, 0), (False, True, 1), (True, True, 1)],
)
def test_only_who_may_be_to_blame_has_had_an_attempt(
    run: Run, has_begun: bool, is_suspect: bool, attempts: int
) -> None:
    async def test(desk: Desk) -> None:
        await desk.claimed()
        if has_begun:
            await desk.one.begin("job-1", STEP)
        await desk.one.release("job-1", has_begun=has_begun, reason="a pause", is_suspect=is_suspect)
        row = await desk.found()
        assert (row.state, row.owner, row.attempts, row.begun) == ("queued", None, attempts, None)
        assert await desk.two.claim("tiny", {})

    run(test)


def test_the_key_of_a_job_that_never_began_is_free_again(run: Run) -> None:
    async def test(desk: Desk) -> None:
        await desk.claimed("job-1", key="refused")
        await desk.one.fail("job-1", ERROR)
        assert await desk.one.find_key("", "refused") is None
        await desk.claimed("job-2", key="ran")
        await desk.one.begin("job-2", STEP)
        await desk.one.fail("job-2", ERROR)
        assert await desk.one.find_key("", "ran")
        await desk.claimed("job-3", key="cancelled")
        await desk.one.cancel("job-3")
        assert await desk.one.find_key("", "cancelled")

    run(test)


def test_who_waits_beyond_its_deadline_or_its_time_is_late(run: Run) -> None:
    async def test(desk: Desk) -> None:
        now = time.time()
        await desk.claimed("job-0", deadline=now - 1)
        await desk.one.insert(job("job-1", deadline=now - 1), None)
        await desk.one.insert(job("job-2", expires=now - 1), None)
        await desk.one.insert(job("job-3", deadline=now + 60), None)
        assert sorted(row.id for row in await desk.two.late()) == ["job-1", "job-2"]
        assert await desk.two.fail("job-1", ERROR, is_ours=False)
        assert await desk.one.num_queued() == 3

    run(test)


def test_whoever_is_to_be_told_of_an_end_is_so_from_the_end_on(run: Run) -> None:
    async def test(desk: Desk) -> None:
        await desk.one.insert(job(), new_delivery("job-1", "https://example.org", "whsec_"))
        delivery = await desk.one.delivery("job-1")
        assert delivery
        assert (delivery.state, delivery.due, delivery.body) == ("waiting", None, None)
        await desk.one.fail("job-1", ERROR, is_ours=False)
        delivery = await desk.one.delivery("job-1")
        assert delivery
        assert (delivery.state, delivery.body and delivery.body["type"]) == ("pending", "job.failed")
        assert delivery.body
        told = delivery.body["data"]
        assert (told["id"], told["state"], told["metadata"]) == ("job-1", "failed", {"mine": "1"})
        assert told["error"] == {
            "message": "wrong",
            "type": "invalid_request_error",
            "param": "size",
            "code": "invalid_request",
        }
        assert "result" not in told

    run(test)


def test_what_is_forgotten_leaves_nothing_and_nobody_is_forgotten_before_it_is_told(
    run: Run,
) -> None:
    async def test(desk: Desk) -> None:
        await desk.one.insert(job("job-1", key="k"), new_delivery("job-1", "https://example.org", "whsec_"))
        await desk.one.insert(job("job-2"), None)
        await desk.one.cancel("job-1")
        await desk.one.cancel("job-2")
        assert await desk.one.expired() == []
        async with desk.database.session() as session:
            await session.execute(update(JobRow).values(expires=time.time() - 1))
        assert await desk.one.expired() == ["job-2"]
        async with desk.database.session() as session:
            await session.execute(update(DeliveryRow).values(state="failed"))
        assert sorted(await desk.one.expired()) == ["job-1", "job-2"]
        await desk.one.forget("job-1")
        assert await desk.one.find("", "job-1") is None
        assert await desk.one.find_key("", "k") is None
        assert await desk.one.events("job-1", 0) == []
        assert await desk.one.delivery("job-1") is None
        assert await desk.one.find("", "job-2")

    run(test)


def test_a_result_can_be_forgotten_and_the_job_stays_known(run: Run) -> None:
    async def test(desk: Desk) -> None:
        await desk.claimed(key="k")
        await desk.one.begin("job-1", STEP)
        await desk.one.succeed("job-1", {"answer": "yes"}, ["a.png"])
        await desk.one.forget_result("job-1")
        row = await desk.one.find_key("", "k")
        assert row
        assert (row.state, row.result, row.files, row.is_deleted) == ("succeeded", None, [], True)

    run(test)


def test_every_change_rings_the_bell(run: Run) -> None:
    async def test(desk: Desk) -> None:
        await desk.claimed()
        with desk.one.bell.listen("job-1") as news:
            for change in (
                desk.one.note("job-1", STEP, "queued"),
                desk.one.begin("job-1", STEP),
                desk.one.release("job-1", has_begun=False, reason="a pause"),
                desk.one.cancel("job-1"),
            ):
                await change
                assert news.is_set()
                news.clear()

    run(test)


def test_a_lease_is_longer_than_the_pause_between_prolongations() -> None:
    from service.runner import TICK_SECONDS  # noqa: PLC0415

    assert ledger_module.LEASE_SECONDS >= 3 * TICK_SECONDS
