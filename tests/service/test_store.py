import asyncio
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from service.database import Database
from service.errors import FileGone
from service.store import Store, StoreUnusable


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        str(tmp_path / "deep" / "files") if request.param == "folder" else request.getfixturevalue("bucket")
    )


def in_store(folder: Path, url: str, run: Callable[[Store], Awaitable[Any]]) -> Any:
    async def started() -> Any:
        database = Database(f"sqlite:///{folder}/test.db")
        await database.start()
        try:
            store = Store(database, url)
            await store.start()
            return await run(store)
        finally:
            await database.stop()

    return asyncio.run(started())


def test_what_is_kept_comes_back_until_it_is_deleted(tmp_path: Path, url: str) -> None:
    async def run(store: Store) -> None:
        names = [await store.put(data, "png") for data in (b"one", b"two")]
        assert [await store.get(name) for name in names] == [b"one", b"two"]
        await store.delete([*names[:1], "never.png"])
        assert await store.get(names[1]) == b"two"
        with pytest.raises(FileGone):
            await store.get(names[0])

    in_store(tmp_path, url, run)


def test_files_go_with_their_job(tmp_path: Path, url: str) -> None:
    async def run(store: Store) -> None:
        ours = [await store.put(b"a", "png", job_id="job-1") for _ in range(2)]
        other = await store.put(b"b", "png", job_id="job-2")
        await store.delete_of("job-1")
        assert await store.get(other) == b"b"
        for name in ours:
            with pytest.raises(FileGone):
                await store.get(name)

    in_store(tmp_path, url, run)


def test_a_file_goes_when_its_time_is_up(tmp_path: Path) -> None:
    async def run(store: Store) -> None:
        old = await store.put(b"a", "png", expires=time.time() - 1)
        new = await store.put(b"b", "png", expires=time.time() + 60)
        kept = await store.put(b"c", "png")
        await store.sweep()
        with pytest.raises(FileGone):
            await store.get(old)
        assert [await store.get(new), await store.get(kept)] == [b"b", b"c"]

    in_store(tmp_path, str(tmp_path / "files"), run)
    assert len(list((tmp_path / "files").iterdir())) == 2


def test_a_file_that_somebody_else_deleted_is_gone_and_no_trouble(tmp_path: Path) -> None:
    async def run(store: Store) -> None:
        name = await store.put(b"a", "png")
        (tmp_path / "files" / name).unlink()
        with pytest.raises(FileGone):
            await store.get(name)
        await store.delete([name])

    in_store(tmp_path, str(tmp_path / "files"), run)


def test_files_outlive_the_server(tmp_path: Path, url: str) -> None:
    async def put(store: Store) -> str:
        return await store.put(b"a", "png")

    name = in_store(tmp_path, url, put)
    assert in_store(tmp_path, url, lambda store: store.get(name)) == b"a"


def test_names_cannot_be_guessed_and_the_folder_is_its_owners(tmp_path: Path) -> None:
    async def run(store: Store) -> list[str]:
        return [await store.put(b"a", "png") for _ in range(2)]

    one, two = in_store(tmp_path, str(tmp_path / "files"), run)
    assert len(one) == len(two) == 32 + len(".png")
    assert one != two
    assert stat.S_IMODE((tmp_path / "files").stat().st_mode) == 0o700


def test_a_store_that_takes_no_files_says_so_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url in (str(tmp_path / "file"), "nosuch://place"):
        with pytest.raises(StoreUnusable, match="cannot be kept"):
            in_store(tmp_path, url, lambda store: store.get("a"))
