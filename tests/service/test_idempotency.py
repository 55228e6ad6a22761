import json
from typing import Any

import pytest
from starlette.requests import Request

from service.errors import InvalidRequest
from service.idempotency import check_whole, fingerprint, key_of, key_of_part, to_text
from service.schemas.body import validate
from service.schemas.drawing import EditRequest, GenerateRequest


def with_keys(*keys: str) -> Request:
    return Request({"type": "http", "headers": [(b"idempotency-key", key.encode()) for key in keys]})


def generate(**fields: Any) -> GenerateRequest:
    return validate(GenerateRequest, {"prompt": "a"} | fields)


def test_a_request_may_have_a_key() -> None:
    assert key_of(with_keys()) is None
    assert key_of(with_keys("one")) == "one"


@pytest.mark.parametrize("keys", [("",), ("a" * 256,), ("a\tb",), ("one", "two")])
def test_what_cannot_be_a_key_is_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        key_of(with_keys(*keys))
    assert refused.value.param == "Idempotency-Key"


def test_requests_that_mean_the_same_are_the_same() -> None:
    assert fingerprint("generate", generate()) == fingerprint("generate", generate(n=1, solver="euler"))


def test_requests_that_differ_in_anything_differ() -> None:
    marks = [
        fingerprint("generate", generate()),
        fingerprint("edit", generate()),
        fingerprint("generate", generate(seed=1)),
        fingerprint("generate", generate(metadata={"a": "b"})),
        fingerprint("generate", generate(), {"url": "https://example.org", "secret": None}),
    ]
    assert len(set(marks)) == len(marks)


def test_a_request_reads_back_as_it_was_files_and_all() -> None:
    asked = validate(EditRequest, {"prompt": "é", "image": [b"\x89PNG\xff"], "guidance_interval": [0, 0.5]})
    again = validate(EditRequest, json.loads(to_text(asked)))
    assert again == asked.model_copy(update={"image": ["iVBOR/8="]})
    assert to_text(again) == to_text(asked)


def test_a_part_of_a_request_has_a_key_that_no_client_can_send() -> None:
    assert key_of_part("k", 0) == "k"
    with pytest.raises(InvalidRequest):
        key_of(with_keys(key_of_part("k", 1)))


def test_what_is_streamed_is_not_kept() -> None:
    check_whole(generate())
    with pytest.raises(InvalidRequest) as refused:
        check_whole(generate(stream=True))
    assert refused.value.param == "stream"
