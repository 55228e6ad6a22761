import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from starlette.testclient import TestClient

from service.engine.job import LoadedModel
from service.settings import Settings
from tests.service.local_client import service_of

BODY = {"prompt": "a", "num_inference_steps": 1, "response_format": "url"}
Web = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def files_web(loaded: LoadedModel, make_web: Web, settings: Settings) -> Iterator[TestClient]:
    with make_web(loaded, settings) as web:
        yield web


def link(web: TestClient) -> str:
    return str(web.post("/v1/generate", json=BODY).json()["images"][0]["url"])


def test_a_link_gives_the_file_and_says_how_long_it_may_be_kept(files_web: TestClient) -> None:
    answer = files_web.get(link(files_web))
    assert answer.content.startswith(b"\x89PNG")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert re.fullmatch(r"private, max-age=(3600|359\d), immutable", answer.headers["cache-control"])


@pytest.mark.parametrize(
    "change", [("signature=", "signature=A"), (".png", ".jpeg"), ("expires=", "expires=9")]
)
def test_a_link_that_was_changed_gives_nothing(files_web: TestClient, change: tuple[str, str]) -> None:
    answer = files_web.get(link(files_web).replace(*change))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "invalid_link")


def test_a_link_without_its_signature_gives_nothing(files_web: TestClient) -> None:
    answer = files_web.get(link(files_web).partition("?")[0])
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "invalid_link")


def test_a_link_expires_and_its_file_goes(files_web: TestClient, settings: Settings) -> None:
    service_of(files_web).links.seconds = -1
    answer = files_web.get(link(files_web))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "invalid_link")
    assert "expired" in answer.json()["error"]["message"]
    assert len(list((settings.data_dir / "files").iterdir())) == 1
    assert files_web.portal
    files_web.portal.call(files_web.app.state.jobs.sweep)  # type: ignore[attr-defined]
    assert list((settings.data_dir / "files").iterdir()) == []


@pytest.mark.slow
def test_pictures_can_be_kept_in_s3(
    loaded: LoadedModel, make_web: Web, settings: Settings, bucket: str, wait_until: Callable[..., None]
) -> None:
    with make_web(loaded, settings.model_copy(update={"store_url": bucket})) as web:
        job_id = web.post("/v1/generate", json=BODY, headers={"Prefer": "respond-async"}).json()["id"]
        wait_until(lambda: web.get(f"/v1/jobs/{job_id}").json()["state"] == "succeeded")
        url = web.get(f"/v1/jobs/{job_id}").json()["result"]["images"][0]["url"]
        assert web.get(url).content.startswith(b"\x89PNG")
        assert web.delete(f"/v1/jobs/{job_id}").json()["deleted"]
        assert web.get(url).status_code == 404
    assert not (settings.data_dir / "files").exists()


def test_a_file_that_was_deleted_is_gone(files_web: TestClient, settings: Settings) -> None:
    url = link(files_web)
    for path in (settings.data_dir / "files").iterdir():
        path.unlink()
    answer = files_web.get(url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")
