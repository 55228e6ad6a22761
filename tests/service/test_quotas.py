import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from model.drawing import Drawing
from service.allowance import Quota, parse_quotas
from service.database import Database
from service.engine.job import Job, Timings
from service.errors import QuotaExhausted
from service.quotas import Quotas
from service.tenant import Tenant
from service.usage import Usage

Use = Callable[[Callable[[Database], Any]], Any]
NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
JOB = Job(id="a", work=Drawing(prompt="a"), tenant="ann")
RESULT: Any = None  # what came of a job costs nothing


def books(database: Database, **given: Any) -> Quotas:
    return Quotas(Usage(database, now=lambda: NOON), **given)


def with_quotas(words: str | None, name: str = "ann") -> Tenant:
    return Tenant(name=name, quotas=None if words is None else parse_quotas(words))


def took(device_seconds: float) -> Timings:
    return Timings(queue_seconds=1.0, denoise_seconds=9.0, device_seconds=device_seconds)


def test_jobs_are_charged_to_their_tenants_finished_or_cancelled(use: Use) -> None:
    async def work(database: Database) -> Any:
        quotas = books(database)
        quotas.finished(JOB, RESULT, took(2.0))
        quotas.finished(JOB, RESULT, took(0.5))
        quotas.cancelled("bob", "denoise", 3.0)
        quotas.cancelled("carl", "queue", 0.0)
        await quotas.flush()
        return await Usage(database, now=lambda: NOON).of("day")

    assert use(work) == {"ann": 2.5, "bob": 3.0}


def test_who_has_used_up_a_quota_is_refused_until_the_next_window(use: Use) -> None:
    async def work(database: Database) -> list[int]:
        quotas, waits = books(database), []
        for words in ("10/day", "10/day 100/month"):
            await quotas.check(with_quotas(words))
        quotas.finished(JOB, RESULT, took(10.0))
        await quotas.check(with_quotas("10.1/day 11/month"))
        await quotas.check(with_quotas("10/day", name="bob"))
        for words in ("10/day", "10/day 9/month", "9/month 1000/day"):
            with pytest.raises(QuotaExhausted, match=r"10\.0 device-seconds") as refusal:
                await quotas.check(with_quotas(words))
            waits.append(refusal.value.retry_after_seconds)
        return waits

    assert use(work) == [12 * 3600, 36 * 3600, 36 * 3600]


def test_who_has_no_quotas_has_the_default(use: Use) -> None:
    async def work(database: Database) -> None:
        quotas = books(database, default=(Quota(1.0, "day"),))
        quotas.finished(JOB, RESULT, took(1.0))
        with pytest.raises(QuotaExhausted):
            await quotas.check(with_quotas(None))
        await quotas.check(with_quotas("unlimited"))
        await quotas.check(with_quotas("2/day"))
        await books(database).check(with_quotas(None))

    use(work)


def test_a_restart_forgets_nothing(use: Use) -> None:
    async def work(database: Database) -> None:
        quotas = books(database)
        await quotas.start()
        quotas.finished(JOB, RESULT, took(7.0))
        await quotas.stop()
        await quotas.stop()
        with pytest.raises(QuotaExhausted, match=r"7\.0"):
            await books(database).check(with_quotas("7/day"))

    use(work)


def test_what_is_used_is_written_while_nobody_asks(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.quotas.FLUSH_SECONDS", 0.01)

    async def work(database: Database) -> None:
        quotas, usage = books(database), Usage(database, now=lambda: NOON)
        await quotas.start()
        quotas.finished(JOB, RESULT, took(7.0))
        while not await usage.of("day"):
            await asyncio.sleep(0.01)
        await quotas.stop()

    use(work)


def test_what_cannot_be_written_is_kept_until_it_can(
    use: Use, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.quotas.FLUSH_SECONDS", 0.01)

    async def rename(database: Database, old: str, new: str) -> None:
        async with database.session() as session:
            await session.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))

    async def work(database: Database) -> Any:
        quotas = books(database)
        await rename(database, "usage", "gone")
        quotas.finished(JOB, RESULT, took(7.0))
        with pytest.raises(SQLAlchemyError):
            await quotas.check(with_quotas("1/day"))
        await quotas.start()
        while not caplog.records:
            await asyncio.sleep(0.01)
        await rename(database, "gone", "usage")
        await quotas.stop()
        return await Usage(database, now=lambda: NOON).of("day")

    assert use(work) == {"ann": 7.0}


def test_charges_come_from_any_thread_and_none_is_lost_or_counted_twice(use: Use) -> None:
    async def work(database: Database) -> Any:
        quotas = books(database)
        with ThreadPoolExecutor(4) as threads:
            charging = [threads.submit(quotas.finished, JOB, RESULT, took(1.0)) for _ in range(200)]
            await asyncio.gather(*(quotas.flush() for _ in range(20)))
            for each in charging:
                each.result()
        await quotas.flush()
        return await Usage(database, now=lambda: NOON).of("day")

    assert use(work) == {"ann": 200.0}
