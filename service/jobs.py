"""Jobs as their clients know them: asked for, looked up, followed, waited for, cancelled, forgotten."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from model.prompt import Task
from model.request import chosen_seed
from service.bell import Bell
from service.database import brief
from service.deps import Service
from service.engine.client import State
from service.engine.errors import EngineBusy, EngineDraining
from service.errors import IdempotencyConflict, InvalidRequest, JobNotFound, KeptError, within
from service.idempotency import HEADER, check_whole, fingerprint, to_text
from service.ledger import EventRow, JobRow, KeyTaken, Ledger, shown
from service.results import with_files, with_links
from service.runner import Runner
from service.schemas.answers import ErrorData, ImagesAnswer, TextAnswer
from service.schemas.body import Body
from service.schemas.jobs import JobAnswer, JobProgress, Webhook, WebhookData
from service.tasks import fetched, to_job
from service.tenant import Tenant
from service.webhooks import DeliveryRow, UnsafeAddress, Webhooks, check_url, new_delivery

log = logging.getLogger(__name__)

MAX_ROW_CHARS = 64 * 1024
POLL_SECONDS = 2.0
SWEEP_SECONDS = 30.0
BUSY_RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody wants to be run.

    Attributes:
        key: The client's name for this request.
        field: In which field it came, if it was not the whole body.
        origin: The endpoint and the request as it came there, where that has another form than the task's:
            what requests of one key are compared by.
    """

    tenant: Tenant
    task: Task
    asked: Body
    key: str | None = None
    field: str | None = None
    origin: tuple[str, Body] | None = None
    webhook: Webhook | None = None


class Jobs:
    """All jobs of a service, from start to stop."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self._service = service
        self._ledger = Ledger(service.database, Bell(), retention_seconds=settings.retention_seconds)
        self._webhooks = Webhooks(
            service.database,
            max_attempts=settings.max_webhook_attempts,
            pause_seconds=settings.webhook_pause_seconds,
            allow_private=settings.allow_private_webhooks,
            tell=service.metrics.webhook_tried,
        )
        self._runner = Runner(service, self._ledger, self._webhooks.wake)
        self._secret = settings.webhook_secret and settings.webhook_secret.get_secret_value()
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Go on with the jobs that are there, once the engine is ready."""
        self._runner.start()
        self._webhooks.start()
        self._sweeping = asyncio.create_task(self._sweep_forever())

    async def stop(self) -> None:
        """Give back what runs, to be run after the next start."""
        if self._sweeping:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await self._runner.stop()
        await self._webhooks.stop()

    async def create(self, order: Order) -> tuple[JobRow, bool]:
        """Take in a job, or find the one that the order's key stands for; also return whether it is new.

        Raises:
            IdempotencyConflict: The key stands for another request.
            InvalidRequest: It cannot be run as a job.
            EngineBusy: As many jobs wait as may wait.
            EngineUnavailable: Nothing is taken in now.
            RequestError: As to_job.
            ModelError: As to_job.
        """
        compared = order.origin or (order.task, order.asked)
        mark = await asyncio.to_thread(fingerprint, *compared, _plain(order.webhook))
        if found := await self._joined(order, mark):
            return found, False
        row, text = await self._checked_row(order, mark)
        delivery = self._delivery(row.id, order.webhook) if order.webhook else None
        if len(text) <= MAX_ROW_CHARS:
            row.request = text
        else:
            row.request_file = await self._service.store.put(text.encode(), "json", job_id=row.id)
        try:
            await self._ledger.insert(row, delivery)
        except KeyTaken:
            await self._service.store.delete_of(row.id)
            if found := await self._joined(order, mark):
                return found, False
            raise
        self._runner.wake()
        return row, True

    async def find(self, tenant: str, job_id: str) -> JobRow:
        """Return a tenant's job.

        Raises:
            JobNotFound: The tenant has no such job.
        """
        if row := await self._ledger.find(tenant, job_id):
            return row
        raise JobNotFound(f"there is no job {job_id[:80]!r}, or not any more")

    async def wait(self, tenant: str, job_id: str) -> JobRow:
        """Return a job when it has ended.

        Raises:
            JobNotFound: As `find`.
            EngineDraining: It will not end before the server does; it goes on after the next start.
        """
        with self._ledger.bell.listen(job_id) as news:
            while not (row := await self.find(tenant, job_id)).has_ended:
                if self._is_left(row):
                    words = "the server is shutting down; ask again with the same key for the job to go on"
                    raise EngineDraining(words, retry_after_seconds=BUSY_RETRY_SECONDS)
                await _ring(news)
        return row

    async def follow(self, tenant: str, job_id: str, after: int) -> AsyncGenerator[EventRow, None]:
        """Yield a job's events after the one of this number, as they come, until it or the server ends.

        Raises:
            JobNotFound: As `find`.
        """
        with self._ledger.bell.listen(job_id) as news:
            while True:
                row = await self.find(tenant, job_id)
                for event in await self._ledger.events(job_id, after):
                    yield event
                    after = event.number
                if row.has_ended or self._is_left(row):
                    return
                await _ring(news)

    async def cancel(self, tenant: str, job_id: str) -> JobRow:
        """End a job that has not ended, or delete the result of one that has.

        Raises:
            JobNotFound: As `find`.
        """
        row = await self.find(tenant, job_id)
        if row.has_ended:
            await self._ledger.forget_result(job_id)
            await self._service.store.delete_of(job_id)
        elif await self._ledger.cancel(job_id):
            self._service.metrics.job_ended(row.task, "cancelled")
            self._runner.drop(job_id)
            self._webhooks.wake()
            if row.request_file:
                await self._service.store.delete([row.request_file])
        return await self.find(tenant, job_id)

    async def result(self, row: JobRow, base_url: str) -> ImagesAnswer | TextAnswer:
        """Return what a job that has ended came to.

        Args:
            base_url: Where the request came to that asks for it.

        Raises:
            KeptError: What the job failed with.
            IdempotencyConflict: It was cancelled, or its result was deleted.
            FileGone: A picture is no longer kept.
        """
        if row.error:
            raise KeptError(row.error)
        if row.result is None:
            words = "was cancelled" if row.state == "cancelled" else "has no result any more"
            raise IdempotencyConflict(f"the job of this key {words}; use another key", param=HEADER)
        if row.task == "understand":
            return TextAnswer.model_validate(row.result)
        made = ImagesAnswer.model_validate(row.result)
        if row.response_format == "url":
            return with_links(self._service.links, made, row.files, base_url)
        return await with_files(self._service.store, made, row.files)

    async def show(self, row: JobRow, base_url: str) -> JobAnswer:
        """Return a job as its client sees it; raises FileGone."""
        delivery = await self._ledger.delivery(row.id)
        return JobAnswer(
            id=row.id,
            task=row.task,
            model=row.model,
            state=row.state,
            progress=None if row.progress is None else JobProgress(**row.progress),
            eta_seconds=None if row.done_at is None else max(0.0, row.done_at - time.time()),
            attempts=row.attempts,
            created=row.created,
            begun=row.begun,
            ended=row.ended,
            expires=row.expires,
            metadata=row.metadata_,
            result=None if row.result is None else await self.result(row, base_url),
            error=None if row.error is None else ErrorData(**shown(row.error)),
            deleted=row.is_deleted,
            webhook=None if delivery is None else WebhookData.model_validate(delivery, from_attributes=True),
        )

    async def sweep(self) -> None:
        """Forget, with their files, jobs that ended long ago, and delete files whose time is up."""
        for job_id in await self._ledger.expired():
            await self._service.store.delete_of(job_id)
            await self._ledger.forget(job_id)
        await self._service.store.sweep()

    async def _joined(self, order: Order, mark: str) -> JobRow | None:
        """Return the job that an order's key stands for, if there is one; raises IdempotencyConflict."""
        found = order.key and await self._ledger.find_key(order.tenant.name, order.key)
        if not found:
            return None
        if found.fingerprint != mark:
            raise IdempotencyConflict(
                f"{HEADER} was used with another request; use another key for this one", param=HEADER
            )
        return found

    async def _checked_row(self, order: Order, mark: str) -> tuple[JobRow, str]:
        """Return the job that an order makes, but for its request, and its request as it is run."""
        self._service.client.check_loaded()
        asked, now = order.asked, time.time()
        response_format = getattr(asked, "response_format", "")
        if order.webhook:
            self._check_webhook(order.webhook)
        job_id = f"job-{secrets.token_hex(12)}"
        with within(order.field):
            check_whole(asked)
            asked = await fetched(self._service, asked)
            await to_job(self._service, asked, job_id, order.tenant)
        num_queued = await self._ledger.num_queued()
        if num_queued >= self._service.settings.max_queued_jobs:
            raise EngineBusy(
                f"{num_queued} jobs are waiting, which is all that may",
                retry_after_seconds=BUSY_RETRY_SECONDS,
            )
        if asked.seed is None:
            asked = asked.model_copy(update={"seed": chosen_seed(None)})
        row = JobRow(
            id=job_id,
            tenant=order.tenant.name,
            key=order.key,
            fingerprint=mark,
            task=order.task,
            model=self._service.client.model_id,
            priority=asked.priority,
            response_format=response_format,
            metadata_=asked.metadata,
            created=now,
            deadline=None if asked.deadline_seconds is None else now + asked.deadline_seconds,
            expires=now + self._service.settings.retention_seconds,
        )
        return row, await asyncio.to_thread(to_text, asked)

    def _is_left(self, row: JobRow) -> bool:
        """Say whether a job that has not ended is left to the next start."""
        return self._service.client.state is State.DRAINING and row.owner is None

    def _check_webhook(self, webhook: Webhook) -> None:
        try:
            check_url(webhook.url, allow_private=self._service.settings.allow_private_webhooks)
        except UnsafeAddress as error:
            raise InvalidRequest(f"webhook.url: {error}", param="webhook.url") from None
        if not webhook.secret and not self._secret:
            raise InvalidRequest(
                "webhook.secret is required: this server has none of its own", param="webhook.secret"
            )

    def _delivery(self, job_id: str, webhook: Webhook) -> DeliveryRow:
        secret = webhook.secret or self._secret
        assert secret, "it was checked"
        return new_delivery(job_id, webhook.url, secret)

    async def _sweep_forever(self) -> None:
        while True:
            try:
                await self.sweep()
            except (SQLAlchemyError, OSError) as error:
                log.warning("old jobs are kept for now: %s", brief(error))
            await asyncio.sleep(SWEEP_SECONDS)


def _plain(webhook: Webhook | None) -> dict[str, Any] | None:
    return None if webhook is None else webhook.model_dump()


async def _ring(news: asyncio.Event) -> None:
    """Wait for news, of this process or, for a while, of another."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(POLL_SECONDS):
            await news.wait()
    news.clear()
