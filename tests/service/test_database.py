import asyncio
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Mapped, mapped_column

from service.database import Base, Database


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
