"""Telling a client's own server that a job has ended: signed the Standard Webhooks way, and tried again.

What is to be told is in the database from the moment on that the job ends, so that a restart forgets none.
Source: https://www.standardwebhooks.com, specification 1.0.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address
from socket import SOCK_STREAM
from ssl import SSLContext
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx
from sqlalchemy import JSON, String, Text, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column
from standardwebhooks import Webhook

from service.addresses import Address, is_public, parse_address
from service.database import Base, Database, brief
from service.fetch import CheckedNetwork, FetchRefused

log = logging.getLogger(__name__)

SECRET_PREFIX = "whsec_"
SECRET_BYTES = (24, 64)
TIMEOUT_SECONDS = 15.0
FACTOR = 4.0
MAX_PAUSE_SECONDS = 24 * 3600.0
TICK_SECONDS = 2.0
AT_ONCE = 16
GONE = 410
NO_ANSWER = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    FetchRefused,
    OSError,
    TimeoutError,
)
"""What a try may end in that reached nobody, or nobody who answers properly."""

IsAllowed = Callable[[Address], bool]


class DeliveryRow(Base):
    """One job's end, to be told to one address.

    Attributes:
        id: The message's, the same at every try.
        state: waiting for the job's end, pending, delivered, or failed after the last try.
        due: When to try next; Unix seconds.
        body: What to tell, once that is known.
    """

    __tablename__ = "delivery"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str] = mapped_column(String(40), index=True)
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    due: Mapped[float | None] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    body: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class UnsafeAddress(Exception):
    """An address that nothing is sent to."""


def new_delivery(job_id: str, url: str, secret: str) -> DeliveryRow:
    """Return the row of a delivery that waits for its job's end."""
    return DeliveryRow(id=f"msg-{secrets.token_hex(12)}", job_id=job_id, url=url, secret=secret)


async def announce(session: AsyncSession, job_id: str, kind: str, data: Mapping[str, Any]) -> None:
    """Let what waits for a job's end be told, as soon as this transaction is committed."""
    body = {"type": kind, "timestamp": datetime.now(UTC).isoformat(), "data": dict(data)}
    waiting = update(DeliveryRow).where(DeliveryRow.job_id == job_id, DeliveryRow.state == "waiting")
    await session.execute(waiting.values(state="pending", due=time.time(), body=body))


def check_secret(secret: str) -> None:
    """Refuse what is no signing secret.

    Raises:
        ValueError: Says what one looks like.
    """
    least, most = SECRET_BYTES
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not least <= len(key) <= most:
        raise ValueError(f"must be {SECRET_PREFIX} and {least} to {most} bytes in base64")


def check_url(url: str, *, allow_private: bool) -> None:
    """Refuse an address by how it is written, before any name is looked up.

    Raises:
        UnsafeAddress: Says what is wrong with it.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise UnsafeAddress("must be an address such as https://example.org/hook") from None
    if parts.scheme not in ({"http", "https"} if allow_private else {"https"}) or not host:
        raise UnsafeAddress("must be an https address")
    if parts.username is not None or parts.password is not None:
        raise UnsafeAddress("must hold no user and no password")
    address = parse_address(host)
    if address and not allowed(allow_private)(address):
        raise UnsafeAddress("must not lead into a private network")


def allowed(allow_private: bool) -> IsAllowed:
    """Return the policy of addresses."""
    return (lambda _: True) if allow_private else is_public


async def deliver(url: str, body: bytes, headers: Mapping[str, str], *, is_allowed: IsAllowed) -> int:
    """Post a message and return the status of the answer, of which nothing else is read.

    Every address of the host is checked, and one that was checked is connected to.

    Raises:
        FetchRefused: The host has no address, or one that is not allowed.
        httpcore.NetworkError: There was no answer; so do the others of NO_ANSWER.
    """
    network = CheckedNetwork(look_up, is_allowed)
    try:
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            httpcore.AsyncConnectionPool(ssl_context=authorities(), network_backend=network) as pool,
            pool.stream("POST", url, headers=list(headers.items()), content=body) as response,
        ):
            return int(response.status)
    finally:
        await network.aclose()


async def look_up(host: str, port: int) -> list[Address]:
    """Return every address that the system's resolver knows of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
    return [ip_address(address[0]) for *_, address in found]


@cache
def authorities() -> SSLContext:
    """Return whom to trust: the usual authorities."""
    return httpx.create_ssl_context(trust_env=False)


class Webhooks:
    """Delivers what is due, from start to stop.

    Args:
        max_attempts: Tries of one message.
        pause_seconds: After the first try; four times as long after each other, give or take a half.
        allow_private: Also http, and addresses of private networks.
        tell: Called with "delivered", "retried" or "failed" after every try.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_attempts: int,
        pause_seconds: float,
        allow_private: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._database = database
        self._max_attempts = max_attempts
        self._pause_seconds = pause_seconds
        self._is_allowed = allowed(allow_private)
        self._tell = tell
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._tries: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to deliver."""
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Deliver no more; what was on its way is tried again after the next start."""
        tasks = [task for task in (self._running, *self._tries) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """Say that something has come due."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._begin_due()
            except (SQLAlchemyError, OSError) as error:
                log.warning("webhooks wait for the database: %s", brief(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._wake.wait()
            self._wake.clear()

    async def _begin_due(self) -> None:
        """Begin to try what is due, as long as not too many tries are under way."""
        room = AT_ONCE - len(self._tries)
        due = select(DeliveryRow).where(DeliveryRow.state == "pending", DeliveryRow.due <= time.time())
        async with self._database.session() as session:
            rows = list(await session.scalars(due.order_by(DeliveryRow.due).limit(room)))
        for row in rows:
            # Counted and put off before it is made: no crash makes it come more often.
            if await self._change(row, due=time.time() + 2 * TIMEOUT_SECONDS, attempts=row.attempts + 1):
                row.attempts += 1
                self._tries.add(task := asyncio.create_task(self._try(row)))
                task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tries.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("webhook left to its next try: %s", brief(error))
        self.wake()

    async def _try(self, row: DeliveryRow) -> None:
        """Make a try that was counted, and say when the next is due, if one is."""
        status = await self._status(row)
        pause = self._pause(row.attempts)
        outcome, change = "retried", {"due": time.time() + pause}
        if 200 <= status < 300:
            outcome = "delivered"
        elif status == GONE or row.attempts >= self._max_attempts:
            outcome = "failed"
        await self._change(row, **(change if outcome == "retried" else {"state": outcome, "due": None}))
        if outcome == "retried":
            asyncio.get_running_loop().call_later(pause, self.wake)
        self._tell(outcome)
        level = logging.INFO if outcome == "delivered" else logging.WARNING
        fields = {"job": row.job_id, "delivery": row.id, "status": status, "attempts": row.attempts}
        log.log(level, "webhook %s", outcome, extra=fields)

    async def _change(self, row: DeliveryRow, **values: Any) -> bool:
        """Change a delivery, if nobody else has tried it since it was read."""
        ours = update(DeliveryRow).where(DeliveryRow.id == row.id, DeliveryRow.attempts == row.attempts)
        async with self._database.session() as session:
            changed = await session.scalar(ours.values(**values).returning(DeliveryRow.id))
        return changed is not None

    async def _status(self, row: DeliveryRow) -> int:
        """Send a message and return the answer's status; 0 when there was none."""
        body, now = json.dumps(row.body), datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "webhook-id": row.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(row.secret).sign(row.id, now, body),
        }
        try:
            return await deliver(row.url, body.encode(), headers, is_allowed=self._is_allowed)
        except NO_ANSWER as error:
            log.info("webhook not sent: %s", type(error).__name__, extra={"job": row.job_id})
            return 0

    def _pause(self, attempts: int) -> float:
        pause = self._pause_seconds * FACTOR ** (attempts - 1)
        return float(min(pause, MAX_PAUSE_SECONDS)) * random.uniform(0.5, 1.5)
