"""What the database knows of jobs: every change of one is a transaction that adds the event telling of it.

Knows no engine and no HTTP. Who runs a job has a lease on it, and writes only while that is so: when a server
ends, its leases run out and somebody else takes its jobs over; should it come back, nothing it says counts.
"""

import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

from sqlalchemy import (
    JSON,
    ColumnElement,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
    case,
    delete,
    exists,
    func,
    null,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, defer, mapped_column

from model.prompt import Task
from model.request import Progress
from service.bell import Bell
from service.database import Base, Database
from service.webhooks import DeliveryRow, announce

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
GOING: tuple[State, ...] = ("queued", "running")
LEASE_SECONDS = 10.0
SWEPT_AT_ONCE = 100
FREE: Mapping[str, Any] = {"owner": None, "lease_until": None}
AGAIN: Mapping[str, Any] = {**FREE, "state": "queued", "progress": None, "done_at": None, "begun": None}


class JobRow(Base):
    """A job on the wire, from its creation until it is forgotten. Times are Unix seconds.

    Attributes:
        key: The client's name for the request that made it.
        fingerprint: Of that request.
        request: It, as JSON, until the job has ended; in a file of the store when it is large.
        metadata_: The request's, echoed.
        owner: Who has it, in whose engine it waits or runs.
        lease_until: Until when the owner is taken to live.
        attempts: How often it was begun.
        deadline: When it must be done.
        expires: When it is forgotten, or given up if it has not even begun.
        done_at: When it is expected to be done.
        result: The answer as JSON, but for its pictures.
        files: The pictures, by their names in the store.
        error: What it failed with, as `kept` returns it.
        is_deleted: Its result was deleted at the client's wish.
        num_events: How many events there are of it; the last one's number.
    """

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("tenant", "key"),
        Index("ix_job_queue", "state", "model", "created"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(80))
    key: Mapped[str | None] = mapped_column(String(260))
    fingerprint: Mapped[str] = mapped_column(String(64))
    task: Mapped[Task] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(String(255))
    priority: Mapped[str] = mapped_column(String(16))
    response_format: Mapped[str] = mapped_column(String(16))
    request: Mapped[str | None] = mapped_column(Text)
    request_file: Mapped[str | None] = mapped_column(String(80))
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata", JSON)
    state: Mapped[State] = mapped_column(String(16), default="queued")
    owner: Mapped[str | None] = mapped_column(String(40))
    lease_until: Mapped[float | None]
    attempts: Mapped[int] = mapped_column(default=0)
    created: Mapped[float]
    begun: Mapped[float | None]
    ended: Mapped[float | None]
    deadline: Mapped[float | None] = mapped_column(index=True)
    expires: Mapped[float] = mapped_column(index=True)
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    done_at: Mapped[float | None]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    files: Mapped[list[str]] = mapped_column(JSON, default=list)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    is_deleted: Mapped[bool] = mapped_column(default=False)
    num_events: Mapped[int] = mapped_column(default=1)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self.state not in GOING


class EventRow(Base):
    """Something that happened to a job; its events are numbered from 1 without a gap."""

    __tablename__ = "job_event"

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


class KeyTaken(Exception):
    """There is a job of this key already."""


class LeaseLost(Exception):
    """The job is another's by now, or has ended: nothing of it is ours to write."""


class Ledger:
    """Reads and writes jobs, as one of those who may share a database.

    Attributes:
        bell: Rung at every change that is made here.
    """

    def __init__(self, database: Database, bell: Bell, *, retention_seconds: float) -> None:
        self.bell = bell
        self._database = database
        self._retention_seconds = retention_seconds
        self._owner = f"server-{secrets.token_hex(8)}"

    async def insert(self, row: JobRow, delivery: DeliveryRow | None) -> None:
        """Take in a new job.

        Raises:
            KeyTaken: Its key is another's already.
        """
        try:
            async with self._database.session() as session:
                session.add(row)
                await session.flush()
                session.add(_event(row.id, row.num_events, "state", {"state": "queued"}))
                if delivery:
                    session.add(delivery)
        except IntegrityError as error:
            raise KeyTaken from error

    async def find(self, tenant: str, job_id: str) -> JobRow | None:
        """Return a tenant's job, without its request."""
        return await self._one(JobRow.tenant == tenant, JobRow.id == job_id)

    async def find_key(self, tenant: str, key: str) -> JobRow | None:
        """Return the job that a key stands for, without its request."""
        return await self._one(JobRow.tenant == tenant, JobRow.key == key)

    async def delivery(self, job_id: str) -> DeliveryRow | None:
        """Return how the telling of a job's end goes, if somebody is to be told."""
        async with self._database.session() as session:
            found: DeliveryRow | None = await session.scalar(
                select(DeliveryRow).where(DeliveryRow.job_id == job_id)
            )
        return found

    async def num_queued(self) -> int:
        """Return how many jobs have not begun."""
        async with self._database.session() as session:
            count = select(func.count()).select_from(JobRow).where(JobRow.state == "queued")
            return await session.scalar(count) or 0

    async def events(self, job_id: str, after: int) -> list[EventRow]:
        """Return a job's events after the one of this number, in their order."""
        later = select(EventRow).where(EventRow.job_id == job_id, EventRow.number > after)
        async with self._database.session() as session:
            return list(await session.scalars(later.order_by(EventRow.number)))

    async def claim(self, model: str, flying: Mapping[str, int]) -> JobRow | None:
        """Take a lease on the job that is next, if one waits.

        Interactive jobs go before others, then those of tenants of whom fewer are with us, then the oldest.

        Args:
            flying: How many jobs of each tenant are with us.
        """
        is_free = (
            JobRow.state == "queued",
            JobRow.model == model,
            JobRow.owner.is_(None),
            JobRow.expires > time.time(),
        )
        oldest = select(JobRow.tenant, JobRow.priority, func.min(JobRow.created)).where(*is_free)
        async with self._database.session() as session:
            heads = (await session.execute(oldest.group_by(JobRow.tenant, JobRow.priority))).all()
            if not heads:
                return None
            tenant, priority, created = min(
                heads, key=lambda head: (head[1] != "interactive", flying.get(head[0], 0), head[2])
            )
            first = select(JobRow.id).where(
                *is_free, JobRow.tenant == tenant, JobRow.priority == priority, JobRow.created == created
            )
            job_id = await session.scalar(first.limit(1))
            ours = {"owner": self._owner, "lease_until": time.time() + LEASE_SECONDS}
            taken = update(JobRow).where(*is_free, JobRow.id == job_id).values(**ours).returning(JobRow)
            row: JobRow | None = await session.scalar(taken)
        return row

    async def keep(self, job_ids: Collection[str]) -> None:
        """Prolong the leases on these jobs."""
        ours = update(JobRow).where(JobRow.id.in_(job_ids), JobRow.owner == self._owner)
        async with self._database.session() as session:
            await session.execute(ours.values(lease_until=time.time() + LEASE_SECONDS))

    async def note(self, job_id: str, progress: Progress, state: State) -> None:
        """Write down how far a job of ours is.

        Raises:
            LeaseLost: It is not ours any more.
        """
        told, change = _noted(progress)
        if not await self._change(job_id, "progress", {"state": state, **told}, self._ours, **change):
            raise LeaseLost

    async def begin(self, job_id: str, progress: Progress) -> None:
        """Write down that a job of ours runs; raises as `note`."""
        told, change = _noted(progress)
        change |= {"state": "running", "begun": time.time(), "attempts": JobRow.attempts + 1}
        if not await self._change(job_id, "state", {"state": "running", **told}, self._ours, **change):
            raise LeaseLost

    async def release(self, job_id: str, *, has_begun: bool, reason: str, is_suspect: bool = False) -> None:
        """Give a job of ours back, to be run by whoever comes next.

        Args:
            has_begun: It runs, and will have to begin anew.
            is_suspect: It may be to blame, so that it counts as an attempt.
        """
        change = {**AGAIN, "attempts": JobRow.attempts + (int(is_suspect) - int(has_begun))}
        if has_begun:
            told = {"state": "queued", "reason": reason}
            await self._change(job_id, "state", told, self._ours, **change)
            return
        async with self._database.session() as session:
            await session.execute(update(JobRow).where(JobRow.id == job_id, *self._ours).values(**change))
        self.bell.ring(job_id)

    async def succeed(self, job_id: str, result: Mapping[str, Any], files: Sequence[str]) -> None:
        """End a job of ours with its result; this and nothing else makes the result the job's.

        Raises:
            LeaseLost: It is not ours any more.
        """
        if not await self._end(job_id, "succeeded", self._ours, result=dict(result), files=list(files)):
            raise LeaseLost

    async def fail(self, job_id: str, error: Mapping[str, Any], *, is_ours: bool = True) -> bool:
        """End a job with what went wrong, and return whether that was news.

        A job that never began leaves its key free: nothing has run for it.
        """
        where = self._ours if is_ours else [JobRow.state.in_(GOING)]
        return await self._end(job_id, "failed", where, error=dict(error))

    async def cancel(self, job_id: str) -> bool:
        """End a job at its client's wish, and return whether it had not ended."""
        return await self._end(job_id, "cancelled", [JobRow.state.in_(GOING)])

    async def forget_result(self, job_id: str) -> None:
        """Forget what came of a job that has ended; that it was there stays known."""
        nothing: dict[str, Any] = {"result": None, "files": [], "is_deleted": True}
        async with self._database.session() as session:
            await session.execute(update(JobRow).where(JobRow.id == job_id).values(**nothing))

    async def orphans(self) -> list[JobRow]:
        """Return jobs whose owners' leases have run out."""
        return await self._many(JobRow.state.in_(GOING), JobRow.lease_until < time.time())

    async def adopt(self, row: JobRow) -> bool:
        """Let an orphan be run again, and return whether that was news."""
        where = [JobRow.state == row.state, JobRow.owner == row.owner, JobRow.lease_until < time.time()]
        told = {"state": "queued", "reason": "the server that had it ended"}
        return await self._change(row.id, "state", told, where, **AGAIN)

    async def late(self) -> list[JobRow]:
        """Return jobs that wait for nobody's engine and will not be in time."""
        now = time.time()
        is_late = (JobRow.deadline < now) | (JobRow.expires < now)
        return await self._many(JobRow.state == "queued", JobRow.owner.is_(None), is_late)

    async def expired(self) -> list[str]:
        """Return jobs that are to be forgotten: ended long ago, and told to whoever was to be told."""
        is_told = ~exists().where(DeliveryRow.job_id == JobRow.id, DeliveryRow.state == "pending")
        rows = await self._many(JobRow.state.not_in(GOING), JobRow.expires < time.time(), is_told)
        return [row.id for row in rows]

    async def forget(self, job_id: str) -> None:
        """Forget a job, its events and its key."""
        async with self._database.session() as session:
            await session.execute(delete(DeliveryRow).where(DeliveryRow.job_id == job_id))
            await session.execute(delete(EventRow).where(EventRow.job_id == job_id))
            await session.execute(delete(JobRow).where(JobRow.id == job_id))

    @property
    def _ours(self) -> list[ColumnElement[bool]]:
        return [JobRow.owner == self._owner, JobRow.state.in_(GOING)]

    async def _one(self, *where: ColumnElement[bool]) -> JobRow | None:
        rows = await self._many(*where)
        return rows[0] if rows else None

    async def _many(self, *where: ColumnElement[bool]) -> list[JobRow]:
        found = select(JobRow).options(defer(JobRow.request)).where(*where).limit(SWEPT_AT_ONCE)
        async with self._database.session() as session:
            return list(await session.scalars(found))

    async def _end(
        self, job_id: str, state: State, where: Sequence[ColumnElement[bool]], **values: Any
    ) -> bool:
        now = time.time()
        told: dict[str, Any] = {"state": state}
        change: dict[str, Any] = {
            **FREE,
            "state": state,
            "ended": now,
            "expires": now + self._retention_seconds,
        }
        change |= {"request": None, "done_at": None} | values
        if state == "failed":
            told["error"] = shown(values["error"])
            change["key"] = case((JobRow.attempts > 0, JobRow.key), else_=null())
        return await self._change(job_id, "state", told, where, **change)

    async def _change(
        self,
        job_id: str,
        kind: str,
        told: Mapping[str, Any],
        where: Sequence[ColumnElement[bool]],
        **values: Any,
    ) -> bool:
        """Change a job and add the event that tells of it, if it is so; return whether it is."""
        change = update(JobRow).where(JobRow.id == job_id, *where)
        change = change.values(num_events=JobRow.num_events + 1, **values)
        async with self._database.session() as session:
            number = await session.scalar(change.returning(JobRow.num_events))
            if number is None:
                return False
            session.add(_event(job_id, number, kind, told))
            if told["state"] not in GOING:
                row = await session.get_one(JobRow, job_id, options=[defer(JobRow.result)])
                await announce(session, job_id, f"job.{row.state}", _announced(row))
        self.bell.ring(job_id)
        return True


def shown(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return of an error what its client is told."""
    return {name: error[name] for name in ("message", "type", "param", "code")}


def _event(job_id: str, number: int, kind: str, told: Mapping[str, Any]) -> EventRow:
    return EventRow(job_id=job_id, number=number, kind=kind, data={**told, "at": time.time()})


def _noted(progress: Progress) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is told of progress, and what is written into the job."""
    eta = progress.eta_seconds
    stand = {"stage": progress.stage, "done": progress.done, "total": progress.total}
    done_at = None if eta is None else time.time() + eta
    return {"progress": stand, "eta_seconds": eta}, {"progress": stand, "done_at": done_at}


def _announced(row: JobRow) -> dict[str, Any]:
    """Return what a webhook tells of a job: all but its result, which may be large and is fetched."""
    told = {"id": row.id, "task": row.task, "state": row.state, "created": row.created, "ended": row.ended}
    return told | {"metadata": row.metadata_, "error": row.error and shown(row.error)}
