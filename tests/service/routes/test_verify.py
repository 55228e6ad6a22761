import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from model.images import encode_image, open_image
from service.app import create_app
from service.engine.client import Client
from service.engine.job import LoadedModel
from service.settings import Settings
from tests.service.local_client import local_client


@pytest.fixture(scope="module")
def signing_web(
    loaded: LoadedModel, make_client: Callable[..., Client], wait_until: Callable[..., None]
) -> Iterator[TestClient]:
    """A ready app with the defaults, but for a small limit of bodies."""
    settings = Settings(max_body_bytes=100_000)
    with local_client(create_app(settings, make_client(loaded)), raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        yield client


def drawn(web: TestClient, **fields: Any) -> bytes:
    body = {"prompt": "a", "num_inference_steps": 1, "size": "64x64", "response_format": "binary"}
    return web.post("/v1/generate", json=body | fields).content


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_every_picture_is_ours_by_default(signing_web: TestClient, loaded: LoadedModel, kind: str) -> None:
    file = drawn(signing_web, output_format=kind)
    found = signing_web.post("/v1/verify", files={"image": file}).json()
    assert found["is_ours"]
    credentials, mark = found["content_credentials"], found["watermark"]
    assert (credentials["present"], credentials["valid"], credentials["ours"]) == (True, True, True)
    assert credentials["statement"]["model"] == loaded.card.id
    assert credentials["statement"]["weights_sha256"] == loaded.card.weights_hash
    assert credentials["statement"]["is_ai"]
    assert mark["present"]


def test_every_way_to_bring_the_file_finds_the_same(signing_web: TestClient) -> None:
    file = drawn(signing_web)
    text = base64.b64encode(file).decode()
    answers = [
        signing_web.post("/v1/verify", json={"image": image}).json()
        for image in (text, f"data:image/png;base64,{text}")
    ]
    answers.append(signing_web.post("/v1/verify", files={"image": file}).json())
    assert answers[0]["is_ours"]
    assert answers == answers[:1] * 3


def test_a_streamed_picture_and_its_looks_are_signed_too(signing_web: TestClient) -> None:
    body = {"prompt": "a", "num_inference_steps": 3, "size": "64x64", "stream": True, "partial_images": 1}
    lines = signing_web.post("/v1/generate", json=body).text.splitlines()
    texts = [part.split('"')[0] for line in lines for part in line.split('"b64_json":"')[1:]]
    assert len(texts) == 2
    for text in texts:
        found = signing_web.post("/v1/verify", json={"image": text}).json()
        assert found["content_credentials"]["ours"]


def test_an_edit_of_ours_keeps_what_was_stated_before(signing_web: TestClient) -> None:
    form = {"prompt": "a", "num_inference_steps": 1, "response_format": "binary"}
    edited = signing_web.post("/v1/edit", data=form, files={"image": drawn(signing_web)}).content
    statement = signing_web.post("/v1/verify", files={"image": edited}).json()["content_credentials"][
        "statement"
    ]
    assert statement["actions"][:2] == ["c2pa.opened", "c2pa.edited"]
    assert [each["has_credentials"] for each in statement["ingredients"]] == [True]


def test_a_masked_edit_comes_back_bit_by_bit_and_is_signed(signing_web: TestClient) -> None:
    image = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
    mask = encode_image(Image.new("RGB", image.size))
    form = {"prompt": "a", "num_inference_steps": 1}
    files = {"image": encode_image(image), "mask": mask}
    answer = signing_web.post("/v1/edit", data=form, files=files).json()
    file = base64.b64decode(answer["images"][0]["b64_json"])
    assert open_image(file).tobytes() == image.tobytes()
    assert answer["receipt"]["provenance"]["content_credentials"]
    assert not answer["receipt"]["provenance"]["watermark"]
    found = signing_web.post("/v1/verify", files={"image": file}).json()
    assert (found["content_credentials"]["ours"], found["watermark"]["present"]) == (True, False)


def test_a_picture_of_nobody_is_not_ours(signing_web: TestClient, png64: Callable[..., str]) -> None:
    found = signing_web.post("/v1/verify", json={"image": png64()}).json()
    assert not found["is_ours"]
    assert not found["content_credentials"]["present"]
    assert found["content_credentials"]["statement"] is None


@pytest.mark.parametrize(
    ("request_of", "status", "code", "param"),
    [
        ({"json": {}}, 400, "invalid_request", "image"),
        ({"json": {"image": "%%"}}, 400, "invalid_image", "image"),
        ({"json": {"image": "aGFsbG8="}}, 400, "invalid_image", "image"),
        ({"json": {"image": "abcd", "images": "abcd"}}, 400, "unknown_field", "images"),
        ({"files": [("image", b"a"), ("image", b"b")]}, 400, "invalid_request", "image"),
        ({"files": {"image": b"a" * 200_000}}, 413, "body_too_large", None),
        ({"content": b"a", "headers": {"content-type": "image/png"}}, 415, "unsupported_media_type", None),
    ],
)
def test_what_is_not_one_picture_is_refused(
    signing_web: TestClient, request_of: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    answer = signing_web.post("/v1/verify", **request_of)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
