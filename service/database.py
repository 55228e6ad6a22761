"""The database of keys, jobs and what else must outlive the server: its tables' base and its sessions."""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import event, make_url
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
BUSY_SECONDS = 10


class DatabaseUnusable(OSError):
    """The database cannot be reached, or its file cannot be made."""


class Base(DeclarativeBase):
    """Base of every table; the module that uses a table declares it."""


def brief(error: BaseException) -> str:
    """Return of an error what may be logged: words about the connection, and of all others the class alone.

    PostgreSQL says of a row that it refuses what is in it.
    """
    is_of_connection = isinstance(error, OSError | OperationalError | InterfaceError)
    return str(error).partition("\n")[0] if is_of_connection else type(error).__name__


class SqliteConnection(sqlite3.Connection):
    """Lets go of the file when it is closed.

    A statement whose caller was cancelled may be left with rows to fetch; as long as anybody remembers it,
    SQLite would hold the transaction, and with it the lock of the whole file.
    """

    def close(self) -> None:
        """Roll back what was not committed, and close."""
        with suppress(sqlite3.Error):
            self.rollback()
        super().close()


class Database:
    """One database, SQLite (WAL) or PostgreSQL.

    Args:
        url: As sqlite:///folder/file.db or postgresql://user:password@host/name; drivers are ours to choose.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._url = parsed.set(drivername=DRIVERS.get(parsed.drivername, parsed.drivername))
        # Errors are logged; what was being written, such as a prompt, is not.
        self._engine = create_async_engine(
            self._url,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={"factory": SqliteConnection} if self.is_sqlite else {},
        )
        if self.is_sqlite:
            event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file that only this machine reaches."""
        return self._url.get_backend_name() == "sqlite"

    async def start(self) -> None:
        """Connect, and make the tables that are missing; may come twice.

        Raises:
            DatabaseUnusable: Says why.
        """
        try:
            if self.is_sqlite and self._url.database:
                Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
            async with self._engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
        except (OSError, SQLAlchemyError) as error:
            why = getattr(error, "orig", error)
            place = self._url.set(drivername=self._url.get_backend_name()).render_as_string()
            setting = "HBRIDGE_DATA_DIR" if self.is_sqlite else "HBRIDGE_DATABASE_URL"
            raise DatabaseUnusable(f"the database {place} cannot be used ({why}); see {setting}") from error

    async def stop(self) -> None:
        """Close every connection; may come twice."""
        await self._engine.dispose()

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """Open a transaction: committed at the end, rolled back when something is raised."""
        async with self._sessions() as session, session.begin():
            yield session


def _prepare_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    cursor.close()
