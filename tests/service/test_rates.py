import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress

import pytest

from service.errors import RateLimited
from service.rates import Rates
from service.tenant import Tenant
from tests.service.redis_server import RedisServer

ANN, BOB = Tenant(name="ann", rate="3/minute"), Tenant(name="bob", rate="3/minute")


async def refused(rates: Rates, tenant: Tenant, times: int) -> int:
    """Come so many times; return how many were refused."""
    count = 0
    for _ in range(times):
        with suppress(RateLimited):
            await rates.check(tenant)
            continue
        count += 1
    return count


def test_a_tenant_may_come_as_often_as_its_rate_says_and_no_other_tenant_counts() -> None:
    async def work() -> list[int]:
        rates = Rates()
        return [await refused(rates, ANN, 5), await refused(rates, BOB, 4)]

    assert asyncio.run(work()) == [2, 1]


@pytest.mark.parametrize(
    ("rate", "seconds"), [("1/second", 1), ("1/minute", 60), ("1/hour", 3600), ("1/day", 86400)]
)
def test_a_refusal_says_when_to_come_back(rate: str, seconds: int) -> None:
    async def work() -> None:
        rates, tenant = Rates(), Tenant(name="ann", rate=rate)
        await rates.check(tenant)
        with pytest.raises(RateLimited, match=rate) as refusal:
            await rates.check(tenant)
        assert max(1, seconds - 5) <= refusal.value.retry_after_seconds <= seconds

    asyncio.run(work())


def test_a_window_moves() -> None:
    async def work() -> list[int]:
        rates, tenant = Rates(), Tenant(name="ann", rate="2/second")
        first = await refused(rates, tenant, 3)
        await asyncio.sleep(1.05)
        return [first, await refused(rates, tenant, 3)]

    assert asyncio.run(work()) == [1, 1]


@pytest.mark.parametrize(
    ("default", "own", "num_refused"),
    [(None, None, 0), ("1/hour", None, 2), ("1/hour", "unlimited", 0), ("1/hour", "2/hour", 1)],
)
def test_who_has_no_rate_has_the_default(default: str | None, own: str | None, num_refused: int) -> None:
    rates = Rates(default=default)
    assert asyncio.run(refused(rates, Tenant(name="ann", rate=own), 3)) == num_refused


def test_asking_when_one_may_come_counts_nothing() -> None:
    async def work() -> list[bool]:
        rates = Rates()
        free = [await rates.wait("1/minute", "a") for _ in range(3)]
        return [not any(free), await rates.take("1/minute", "a") == 0, await rates.wait("1/minute", "a") > 0]

    assert all(asyncio.run(work()))


def test_those_who_come_at_once_are_counted_one_by_one() -> None:
    async def work() -> int:
        rates = Rates()
        waits = await asyncio.gather(*(rates.take("5/minute", "a") for _ in range(50)))
        return sum(wait == 0 for wait in waits)

    assert asyncio.run(work()) == 5


def test_without_its_redis_a_server_counts_alone_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> int:
        rates = Rates("redis://127.0.0.1:1/0")
        try:
            return await refused(rates, ANN, 5)
        finally:
            await rates.stop()

    caplog.set_level(logging.WARNING)
    assert asyncio.run(work()) == 2
    assert [record.getMessage()[:44] for record in caplog.records] == [
        "requests are counted by this server alone: E"
    ]


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.mark.slow
def test_servers_that_share_a_redis_count_together(redis_server: RedisServer) -> None:
    async def work() -> list[int]:
        servers = [Rates(redis_server.url) for _ in range(2)]
        try:
            return [await refused(server, ANN, 2) for server in servers] + [await refused(servers[0], BOB, 3)]
        finally:
            for server in servers:
                await server.stop()
                await server.stop()

    assert asyncio.run(work()) == [0, 1, 0]


@pytest.mark.slow
def test_a_redis_that_ends_and_comes_back_is_used_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.rates.ALONE_SECONDS", 0.5)
    tenant = Tenant(name="carl", rate="2/minute")

    async def work() -> list[int]:
        rates = Rates(redis_server.url)
        try:
            shared = await refused(rates, tenant, 2)
            await asyncio.to_thread(redis_server.stop)
            alone = await refused(rates, tenant, 3)
            await asyncio.to_thread(redis_server.start)
            await asyncio.sleep(0.6)
            return [shared, alone, await refused(rates, tenant, 3)]
        finally:
            await rates.stop()

    assert asyncio.run(work()) == [0, 1, 1]
