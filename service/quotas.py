"""Quotas in device-seconds: what jobs used is charged to their tenants, and who has used up all is refused.

A job is charged when it has ended: finished, cancelled or too late. One that failed by a fault of ours, or
ended with its engine, is not. So what runs when a quota is used up may exceed it.
"""

import asyncio
import logging
import math
from collections import defaultdict, deque
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from model.drawing import Drawn
from model.question import Answered
from service.allowance import Quota
from service.engine.job import Job, Timings
from service.engine.observer import Observer
from service.errors import QuotaExhausted
from service.tenant import Tenant
from service.usage import Usage

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0


class Quotas(Observer):
    """Hears of jobs on whatever thread they end, and writes down every second what they used.

    Args:
        default: Quotas of tenants without any of their own.
    """

    def __init__(self, usage: Usage, *, default: tuple[Quota, ...] = ()) -> None:
        self._usage = usage
        self._default = default
        self._charges: deque[tuple[str, float]] = deque()
        self._flushing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    def finished(self, job: Job, result: Drawn | Answered, timings: Timings) -> None:
        """Charge a job that went well."""
        self._charges.append((job.tenant, timings.device_seconds))

    def cancelled(self, tenant: str, stage: str, wasted_seconds: float) -> None:
        """Charge a job that was cancelled for what was done until then."""
        if wasted_seconds > 0:
            self._charges.append((tenant, wasted_seconds))

    async def check(self, tenant: Tenant) -> None:
        """Return when a tenant may use more.

        Raises:
            QuotaExhausted: It has used all; says when there is more.
        """
        quotas = self._default if tenant.quotas is None else tenant.quotas
        if quotas:
            await self.flush()
        for quota in sorted(quotas, key=lambda quota: quota.window == "day"):  # the longest wait first
            used = (await self._usage.of(quota.window, tenant.name)).get(tenant.name, 0.0)
            if used >= quota.seconds:
                seconds = math.ceil(self._usage.seconds_left(quota.window))
                raise QuotaExhausted(
                    f"{used:.1f} device-seconds are used of {quota} (UTC); try again in {seconds} s",
                    retry_after_seconds=seconds,
                )

    async def flush(self) -> None:
        """Write all charges; what cannot be written is kept for the next time.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: The database cannot be used.
        """
        async with self._flushing:
            charges = [self._charges.popleft() for _ in range(len(self._charges))]
            sums: defaultdict[str, float] = defaultdict(float)
            for tenant, seconds in charges:
                sums[tenant] += seconds
            try:
                if sums:
                    await self._usage.add(sums)
            except Exception:
                self._charges.extend(charges)
                raise

    async def start(self) -> None:
        """Begin to write."""
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Write what is left; may come twice."""
        self._stopping.set()
        if self._keeping:
            await asyncio.wait([self._keeping])

    async def _keep(self) -> None:
        is_over = False
        while not is_over:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), FLUSH_SECONDS)
            is_over = self._stopping.is_set()
            try:
                await self.flush()
            except SQLAlchemyError as error:
                log.error("usage is not written yet: %s", error)  # noqa: TRY400 - no fault of ours
