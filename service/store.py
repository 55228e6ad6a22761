"""Where pictures are kept: a folder, or whatever else fsspec reaches, such as S3.

The database knows of every file before it is written, so that none outlives its time unseen: a file is
deleted with the job it belongs to, or when its own time is up.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from sqlalchemy import String, delete, select
from sqlalchemy.orm import Mapped, mapped_column

from service.database import Base, Database
from service.errors import FileGone

log = logging.getLogger(__name__)

SWEPT_AT_ONCE = 500


class FileRow(Base):
    """A file that is in the store, or is about to be, or was.

    Attributes:
        job_id: The job that it goes with.
        expires: When it goes by itself; Unix seconds, as all times here.
    """

    __tablename__ = "file"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    job_id: Mapped[str | None] = mapped_column(String(40), index=True)
    created: Mapped[float]
    expires: Mapped[float | None] = mapped_column(index=True)


class StoreUnusable(OSError):
    """Files cannot be kept where the settings say."""


class Store:
    """Files under names that nobody can guess.

    Args:
        url: Of a folder: a path, or as s3://bucket/prefix.
    """

    def __init__(self, database: Database, url: str) -> None:
        self._database = database
        self._url = url

    async def start(self) -> None:
        """See that files can be written and deleted.

        Raises:
            StoreUnusable: Says why not.
        """
        try:
            if "://" not in self._url:
                Path(self._url).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._files, self._root = await asyncio.to_thread(
                url_to_fs, self._url, skip_instance_cache=True, use_listings_cache=False
            )
            probe = _new_name("probe")
            await self._do("pipe_file", probe, b"probe")
            await self._do("rm_file", probe)
        except Exception as error:
            raise StoreUnusable(f"files cannot be kept at {self._url}: {error}") from error

    async def put(
        self, data: bytes, suffix: str, *, job_id: str | None = None, expires: float | None = None
    ) -> str:
        """Keep a file and return its name.

        Args:
            suffix: The end of its name, such as "png".
            job_id: It is deleted with this job.
            expires: It is deleted then.

        Raises:
            OSError: It could not be written.
        """
        name = _new_name(suffix)
        async with self._database.session() as session:
            session.add(FileRow(name=name, job_id=job_id, created=time.time(), expires=expires))
        await self._do("pipe_file", name, data)
        return name

    async def get(self, name: str) -> bytes:
        """Return a file.

        Raises:
            FileGone: It is not kept, or not any more.
            OSError: It could not be read.
        """
        async with self._database.session() as session:
            if not await session.get(FileRow, name):
                raise FileGone("there is no such file any more")
        try:
            data: bytes = await self._do("cat_file", name)
        except FileNotFoundError:
            raise FileGone("there is no such file any more") from None
        return data

    async def delete(self, names: Sequence[str]) -> None:
        """Delete files; those that are not there are left."""
        if not names:
            return
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                await self._do("rm_file", name)
        async with self._database.session() as session:
            await session.execute(delete(FileRow).where(FileRow.name.in_(names)))

    async def delete_of(self, job_id: str) -> None:
        """Delete all files of a job."""
        async with self._database.session() as session:
            names = list(await session.scalars(select(FileRow.name).where(FileRow.job_id == job_id)))
        await self.delete(names)

    async def sweep(self) -> None:
        """Delete the files whose time is up."""
        due = select(FileRow.name).where(FileRow.expires < time.time()).limit(SWEPT_AT_ONCE)
        async with self._database.session() as session:
            names = list(await session.scalars(due))
        await self.delete(names)

    async def _do(self, what: str, name: str, *arguments: bytes) -> Any:
        """Call a function of fsspec, off the event loop; its backends raise errors of many kinds."""
        try:
            return await asyncio.to_thread(getattr(self._files, what), f"{self._root}/{name}", *arguments)
        except OSError:
            raise
        except Exception as error:
            raise StoreUnusable(f"files at {self._url} cannot be reached: {error}") from error


def _new_name(suffix: str) -> str:
    return f"{secrets.token_urlsafe(24)}.{suffix}"
