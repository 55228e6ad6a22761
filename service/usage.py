"""What tenants used of the device, in the database: a row for each of their days."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column

from service.allowance import Window
from service.database import Base, Database


class UsageRow(Base):
    """What a tenant used on a day, UTC."""

    __tablename__ = "usage"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    device_seconds: Mapped[float]


class Usage:
    """Adds up device-seconds in a database that was started.

    Args:
        now: The time, UTC.
    """

    def __init__(
        self, database: Database, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database = database
        self._now = now

    async def add(self, device_seconds: Mapping[str, float]) -> None:
        """Add what was used to this day, by tenant."""
        today = self._now().date()
        # In one order everywhere, so that servers wait for each other's rows and never in a circle.
        rows = [
            {"tenant": tenant, "day": today, "device_seconds": seconds}
            for tenant, seconds in sorted(device_seconds.items())
        ]
        insert = (sqlite if self._database.is_sqlite else postgresql).insert(UsageRow)
        total = UsageRow.device_seconds + insert.excluded.device_seconds
        async with self._database.session() as session:
            await session.execute(
                insert.values(rows).on_conflict_do_update(
                    index_elements=[UsageRow.tenant, UsageRow.day], set_={"device_seconds": total}
                )
            )

    async def of(self, window: Window, tenant: str | None = None) -> Mapping[str, float]:
        """Return the device-seconds of this day or month, by tenant; of all unless one is named."""
        today = self._now().date()
        first = today if window == "day" else today.replace(day=1)
        total = func.sum(UsageRow.device_seconds).label("seconds")
        asked = select(UsageRow.tenant, total).where(UsageRow.day >= first).group_by(UsageRow.tenant)
        if tenant is not None:
            asked = asked.where(UsageRow.tenant == tenant)
        async with self._database.session() as session:
            return {row.tenant: row.seconds for row in await session.execute(asked)}

    def seconds_left(self, window: Window) -> float:
        """Return how long this day or month still is."""
        now = self._now()
        first = now.date() + timedelta(days=1)
        if window == "month":
            first = (now.date().replace(day=1) + timedelta(days=32)).replace(day=1)
        return (datetime.combine(first, time(), UTC) - now).total_seconds()
