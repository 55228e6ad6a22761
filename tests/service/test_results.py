import asyncio
import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.database import Database
from service.errors import FileGone
from service.links import Links
from service.results import keep_images, publish, with_files, with_links, without_files
from service.schemas.answers import ImagesAnswer
from service.store import Store


@pytest.fixture
def answer(web: TestClient) -> ImagesAnswer:
    body = {"prompt": "a", "n": 2, "num_inference_steps": 1}
    return ImagesAnswer.model_validate(web.post("/v1/generate", json=body).json())


def links(folder: Path) -> Links:
    return Links(b"k" * 32, key_file=folder, seconds=60)


def run(folder: Path, test: Callable[..., object]) -> None:
    async def started() -> None:
        database = Database(f"sqlite:///{folder}/test.db")
        await database.start()
        try:
            store = Store(database, str(folder / "files"))
            await store.start()
            await test(store)  # type: ignore[misc]
        finally:
            await database.stop()

    asyncio.run(started())


def test_an_answer_comes_back_as_it_was_kept(tmp_path: Path, answer: ImagesAnswer) -> None:
    async def test(store: Store) -> None:
        names = await keep_images(store, answer, job_id="job-1")
        plain = without_files(answer)
        assert all(image.keys() == {"seed", "width", "height", "mime_type"} for image in plain["images"])
        assert await with_files(store, ImagesAnswer.model_validate(plain), names) == answer
        await store.delete_of("job-1")
        with pytest.raises(FileGone):
            await with_files(store, answer, names)

    run(tmp_path, test)


def test_an_answer_holds_its_pictures_or_links_to_them(tmp_path: Path, answer: ImagesAnswer) -> None:
    async def test(store: Store) -> None:
        linked = await publish(store, links(tmp_path), answer, "http://here/")
        files = [path.read_bytes() for path in (tmp_path / "files").iterdir()]
        assert sorted(files) == sorted(base64.b64decode(image.b64_json or "") for image in answer.images)
        for image in linked.model_dump()["images"]:
            assert image["url"].startswith("http://here/v1/files/")
            assert "b64_json" not in image
        assert "url" not in answer.model_dump()["images"][0]

    run(tmp_path, test)


def test_everything_else_of_an_answer_stays(tmp_path: Path, answer: ImagesAnswer) -> None:
    linked = with_links(links(tmp_path), answer, ["a.png", "b.png"], "http://here/")
    assert linked.model_dump(exclude={"images"}) == answer.model_dump(exclude={"images"})
    assert [image.seed for image in linked.images] == [image.seed for image in answer.images]
