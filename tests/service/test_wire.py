import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Request
from starlette.testclient import TestClient

from service.errors import BodyTooLarge, InvalidRequest
from service.wire import capped, parse_json


def test_a_body_of_unknown_length_is_refused_as_soon_as_it_is_too_long() -> None:
    left = [{"type": "http.request", "body": b" " * 1000, "more_body": True} for _ in range(100)]

    async def receive() -> Any:
        return left.pop()

    async def read_all() -> None:
        async for _ in capped(Request({"type": "http", "headers": []}, receive), 2500):
            pass

    with pytest.raises(BodyTooLarge):
        asyncio.run(read_all())
    assert len(left) == 97


def test_a_form_that_is_too_long_is_refused(web: TestClient) -> None:
    answer = web.post("/v1/edit", data={"prompt": "a"}, files={"image": b"a" * 200_001})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/generate", {"content-type": "text/plain"}),
        ("/v1/generate", {"content-type": "multipart/form-data; boundary=a"}),
        ("/v1/understand", {"content-type": "application/x-www-form-urlencoded"}),
        ("/v1/edit", {"content-type": "application/x-www-form-urlencoded"}),
        ("/v1/generate", {}),
        ("/v1/generate", {"content-type": "application/json", "content-encoding": "gzip"}),
    ],
)
def test_another_content_type_is_refused(web: TestClient, path: str, headers: dict[str, str]) -> None:
    answer = web.post(path, content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_the_content_types_parameters_do_not_matter(web: TestClient) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert web.post("/v1/understand", content=b'{"prompt": "a"}', headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("data", "files", "param"),
    [
        ({"prompt": "a", "seed": "x"}, ["image"], "seed"),
        ({"prompt": "a", "n": "1.5"}, ["image"], "n"),
        ({"prompt": "a", "soler": "euler"}, ["image"], "soler"),
        ({"prompt": ["a", "b"]}, ["image"], "prompt"),
        ({"prompt": "a", "metadata": "{"}, ["image"], "metadata"),
        ({"prompt": "a", "image": "https://example.org"}, ["prompt2"], "prompt2"),
        ({"prompt": "a", "image": "x"}, ["image"], "image.0"),
        ({"prompt": "a", "n": "1", "n[]": "1"}, ["image"], "n"),
        ({"prompt": "a", "metadata": "{}", "metadata[a]": "1", "metadata[]": "1"}, ["image"], "metadata"),
        ({"prompt": "a", "mask": "x"}, ["image", "mask"], "mask"),
        ({"prompt": "a"}, ["image", "mask", "mask"], "mask"),
        ({"prompt": "a"}, ["image", "seed[a]"], "seed[a]"),
        ({"prompt": "a"}, ["image"] * 9, "image"),
        ({}, ["image"], "prompt"),
    ],
)
def test_a_wrong_part_of_a_form_is_refused_by_name(
    web: TestClient, png: Callable[..., bytes], data: dict[str, Any], files: list[str], param: str
) -> None:
    answer = web.post("/v1/edit", data=data, files=[(name, png()) for name in files])
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)


def test_a_form_without_a_boundary_is_refused(web: TestClient) -> None:
    answer = web.post("/v1/edit", content=b"--a--", headers={"content-type": "multipart/form-data"})
    assert answer.status_code == 400
    assert "boundary" in answer.json()["error"]["message"]


def test_words_of_a_form_stay_words(web: TestClient, png: Callable[..., bytes]) -> None:
    data = {
        "prompt": "7",
        "seed": "7",
        "guidance_interval": "[0.2, 1]",
        "metadata": '{"a": "1"}',
        "size": "auto",
    }
    answer = web.post("/v1/edit", data=data, files={"image": png()}).json()
    assert answer["receipt"]["prompt"] == "7"
    assert answer["images"][0]["seed"] == 7
    assert answer["receipt"]["guidance"]["interval"] == [0.2, 1]
    assert answer["metadata"] == {"a": "1"}


@pytest.mark.parametrize("text", ["", "{", "NaN", "[Infinity]", '{"a": 1, "a": 2}', "\ud800", "[" * 100_000])
def test_only_json_is_json(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_json(text.encode("utf-8", "surrogatepass"))
