import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.allowance import Window
from service.database import Database
from service.usage import Usage

Use = Callable[[Callable[[Database], Any]], Any]


class Calendar:
    """A clock that the test sets."""

    def __init__(self, *when: int) -> None:
        self.now = datetime(*when, tzinfo=UTC)  # type: ignore[arg-type, misc]

    def __call__(self) -> datetime:
        return self.now


def test_what_is_used_adds_up_by_tenant_day_and_month(use: Use) -> None:
    calendar = Calendar(2026, 11, 29, 23, 59)

    async def work(database: Database) -> list[Any]:
        usage = Usage(database, now=calendar)
        seen = []
        for days, used in (
            (0, {"ann": 1.0, "bob": 2.0}),
            (0, {"ann": 0.5}),
            (1, {"ann": 4.0}),
            (2, {"bob": 8.0}),
        ):
            calendar.now = datetime(2026, 11, 29, 23, 59, tzinfo=UTC) + timedelta(days=days)
            await usage.add(used)
            seen.append((await usage.of("day"), await usage.of("month")))
        assert await usage.of("month", "ann") == {}
        assert await usage.of("month", "bob") == {"bob": 8.0}
        return seen

    assert use(work) == [
        ({"ann": 1.0, "bob": 2.0}, {"ann": 1.0, "bob": 2.0}),
        ({"ann": 1.5, "bob": 2.0}, {"ann": 1.5, "bob": 2.0}),
        ({"ann": 4.0}, {"ann": 5.5, "bob": 2.0}),
        ({"bob": 8.0}, {"bob": 8.0}),
    ]


def test_servers_that_add_at_once_lose_nothing(use: Use) -> None:
    async def work(database: Database) -> Any:
        usage = Usage(database, now=Calendar(2026, 11, 29))
        await asyncio.gather(*(usage.add({"ann": 1.0, "bob": 2.0}) for _ in range(20)))
        return await usage.of("day")

    assert use(work) == {"ann": 20.0, "bob": 40.0}


@given(now=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), window=st.sampled_from(["day", "month"]))
def test_a_window_ends_where_the_next_begins(now: datetime, window: Window) -> None:
    left = Usage(Database("sqlite://"), now=lambda: now.replace(tzinfo=UTC)).seconds_left(window)
    assert 0 < left <= 24 * 3600 * (1 if window == "day" else 31)
    end = now + timedelta(seconds=left)
    assert (end.hour, end.minute, end.second) == (0, 0, 0)
    assert end.day == (1 if window == "month" else (now + timedelta(days=1)).day)
