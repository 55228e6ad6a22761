import asyncio
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Mapped, mapped_column

from service.database import Base, Database, brief


class Note(Base):
    __tablename__ = "test_note"
    id: Mapped[int] = mapped_column(primary_key=True)
    words: Mapped[str]


def in_database(folder: Path, *steps: object) -> object:
    async def run() -> object:
        database = Database(f"sqlite:///{folder}/deep/er.db")
        await database.start()
        try:
            return [await step(database) for step in steps]  # type: ignore[operator]
        finally:
            await database.stop()
            await database.stop()

    return asyncio.run(run())


async def add(database: Database) -> None:
    async with database.session() as session:
        session.add(Note(id=1, words="kept"))


async def add_and_fail(database: Database) -> None:
    async with database.session() as session:
        session.add(Note(id=2, words="lost"))
        await session.flush()
        raise RuntimeError("on purpose")


async def fail(database: Database) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        await add_and_fail(database)


async def words(database: Database) -> list[str]:
    async with database.session() as session:
        return list(await session.scalars(select(Note.words)))


async def journal(database: Database) -> object:
    async with database.session() as session:
        return (await session.execute(text("PRAGMA journal_mode"))).scalar()


def test_a_session_is_kept_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    assert in_database(tmp_path, add, fail, words, journal) == [None, None, ["kept"], "wal"]


def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    in_database(tmp_path, add)
    assert in_database(tmp_path, words) == [["kept"]]


def test_the_drivers_are_ours_to_choose() -> None:
    assert Database("sqlite:///x.db").is_sqlite
    assert not Database("postgresql://someone@nowhere/name").is_sqlite


def test_who_is_cancelled_in_the_middle_holds_up_nobody_else(database_url: str) -> None:
    """A statement that returns rows, wherever in it the cancellation falls."""
    count_up = text("UPDATE test_note SET words = words || '.' WHERE id = 1 RETURNING words")

    async def write(database: Database) -> None:
        async with database.session() as session:
            for _ in range(3):
                await session.execute(count_up)

    async def run() -> None:
        database = Database(database_url)
        await database.start()
        await add(database)
        cancelled = []
        for number in range(40):
            task = asyncio.create_task(write(database))
            for _ in range(number):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            cancelled.append(task)  # remembered, and with it whatever it had open
            async with asyncio.timeout(5):
                await write(database)
        assert any(task.cancelled() for task in cancelled)
        await database.stop()

    asyncio.run(run())


def test_an_error_does_not_say_what_was_being_written(database_url: str) -> None:
    async def run() -> None:
        database = Database(database_url)
        await database.start()
        with pytest.raises(IntegrityError) as refused:
            async with database.session() as session:
                await session.execute(text("INSERT INTO test_note (id) VALUES (:id)"), {"id": 123456})
        assert "123456" not in str(refused.value).replace(str(refused.value.orig), "")
        await database.stop()

    asyncio.run(run())


def test_an_error_of_the_connection_says_what_it_is_in_a_line() -> None:
    error = OperationalError("SELECT 1", {}, Exception("nobody listens\nDETAIL: more"))
    assert brief(error).endswith("nobody listens")
    assert brief(ConnectionRefusedError("refused")) == "refused"
    assert brief(ValueError("a secret wish")) == "ValueError"
