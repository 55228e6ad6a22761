"""How often somebody comes: moving windows of the library `limits`, in memory or in a Redis.

When the Redis cannot be reached, this process counts by itself for a while: requests are served, and limited
as well as one server can.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError

from service.allowance import UNLIMITED
from service.errors import RateLimited
from service.tenant import Tenant

log = logging.getLogger(__name__)

Verb = Literal["hit", "test"]

ALONE_SECONDS = 10.0
REDIS_SECONDS = 0.5
PREFIX = "hbridge"


class Rates:
    """Counts requests by whom they come from.

    Args:
        storage_url: memory://, or redis:// or rediss://.
        default: The rate of tenants without one of their own; None leaves them unlimited.
    """

    def __init__(self, storage_url: str = "memory://", *, default: str | None = None) -> None:
        self._default = default
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._shared: MovingWindowRateLimiter | None = None
        self._close: Callable[[], Awaitable[None]] | None = None
        self._alone_until = 0.0
        if not storage_url.startswith("memory://"):
            self._connect(storage_url)

    async def check(self, tenant: Tenant) -> None:
        """Count a tenant's request for work.

        Raises:
            RateLimited: There were too many; says when to come back.
        """
        rate = tenant.rate or self._default
        if rate in (None, UNLIMITED):
            return
        assert rate
        if seconds := await self.take(rate, "tenant", tenant.name):
            raise RateLimited(
                f"this is more than {rate}; try again in {seconds} s", retry_after_seconds=seconds
            )

    async def take(self, rate: str, *whom: str) -> int:
        """Count one, unless that is one too many; return after how many seconds it would not be."""
        return await self._ask("hit", parse(rate), whom)

    async def wait(self, rate: str, *whom: str) -> int:
        """Return after how many seconds one more would not be too many, and count nothing."""
        return await self._ask("test", parse(rate), whom)

    async def stop(self) -> None:
        """Close the connections; may come twice."""
        if self._close:
            await self._close()

    def _connect(self, url: str) -> None:
        from redis.asyncio import ConnectionPool  # noqa: PLC0415 - only who has one needs it

        pool = ConnectionPool.from_url(
            url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
        )
        options: dict[str, Any] = {"implementation": "redispy", "connection_pool": pool}
        storage = RedisStorage(f"async+{url}", wrap_exceptions=True, key_prefix=PREFIX, **options)
        self._shared, self._close = MovingWindowRateLimiter(storage), pool.aclose

    async def _ask(self, verb: Verb, rate: RateLimitItem, whom: tuple[str, ...]) -> int:
        if self._shared and time.monotonic() > self._alone_until:
            try:
                return await _seconds(self._shared, verb, rate, whom)
            except StorageError as error:
                self._alone_until = time.monotonic() + ALONE_SECONDS
                log.warning("requests are counted by this server alone: %s", error.storage_error)
        return await _seconds(self._own, verb, rate, whom)


async def _seconds(
    limiter: MovingWindowRateLimiter, verb: Verb, rate: RateLimitItem, whom: tuple[str, ...]
) -> int:
    if await getattr(limiter, verb)(rate, *whom):
        return 0
    window = await limiter.get_window_stats(rate, *whom)
    return max(1, math.ceil(window.reset_time - time.time()))
