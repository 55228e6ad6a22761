import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from model import errors as model_errors
from service import errors
from service.engine import errors as engine_errors
from service.errors import (
    ROUTING_CODES,
    STATUS,
    InvalidRequest,
    KeptError,
    error_type,
    keep,
    status_of,
    within,
)

P = {"prompt": "a"}
GENERATE, EDIT, UNDERSTAND = "/v1/generate", "/v1/edit", "/v1/understand"
PNG = "$PNG"  # stands for a good picture
WIDE = "$WIDE"  # stands for a picture with too many pixels
SMALL = "$SMALL"  # stands for a picture of a size that is not made


def user(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(parts)}


TEXT = {"type": "text", "text": "a"}
PICTURE = {"type": "image_url", "image_url": {"url": PNG}}

# path, body, code, param; all 400
BAD = [
    (GENERATE, {}, "invalid_request", "prompt"),
    (GENERATE, {"prompt": ""}, "invalid_request", "prompt"),
    (GENERATE, {"prompt": None}, "invalid_request", "prompt"),
    (GENERATE, {"prompt": 7}, "invalid_request", "prompt"),
    (GENERATE, {"prompt": ["a"]}, "invalid_request", "prompt"),
    (GENERATE, {"prompt": "\ud800"}, "invalid_request", "prompt"),
    (GENERATE, {"prompt": "a" * 61}, "prompt_too_long", "prompt"),
    (GENERATE, P | {"negative_prompt": "a" * 61}, "prompt_too_long", "negative_prompt"),
    (GENERATE, P | {"promt": "a"}, "unknown_field", "promt"),
    (GENERATE, P | {"image": PNG}, "unknown_field", "image"),
    (GENERATE, P | {"stream": 1}, "invalid_request", "stream"),
    (GENERATE, P | {"stream": True, "response_format": "binary"}, "invalid_request", "response_format"),
    (GENERATE, P | {"stream": True, "response_format": "url"}, "invalid_request", "response_format"),
    (GENERATE, P | {"stream": True, "partial_images": 4}, "invalid_request", "partial_images"),
    (GENERATE, P | {"partial_images": 1}, "invalid_request", "partial_images"),
    (GENERATE, P | {"webhook": "https://example.org"}, "unknown_field", "webhook"),
    (UNDERSTAND, P | {"stream": True, "partial_images": 1}, "unknown_field", "partial_images"),
    (GENERATE, P | {"priority": "urgent"}, "invalid_request", "priority"),
    (GENERATE, P | {"deadline_ms": 0}, "invalid_request", "deadline_ms"),
    (GENERATE, P | {"guidance_rescale": 1.5}, "invalid_request", "guidance_rescale"),
    (GENERATE, P | {"mask": PNG}, "unknown_field", "mask"),
    (GENERATE, P | {"nope": None}, "unknown_field", "nope"),
    (GENERATE, P | {"acceleration": "fast"}, "invalid_request", "acceleration"),
    (GENERATE, P | {"n": 0}, "invalid_request", "n"),
    (GENERATE, P | {"n": 9}, "invalid_request", "n"),
    (GENERATE, P | {"n": "2"}, "invalid_request", "n"),
    (GENERATE, P | {"n": 1.5}, "invalid_request", "n"),
    (GENERATE, P | {"n": True}, "invalid_request", "n"),
    (GENERATE, P | {"seed": -1}, "invalid_request", "seed"),
    (GENERATE, P | {"seed": 2**63}, "invalid_request", "seed"),
    (GENERATE, P | {"size": "big"}, "unsupported_size", "size"),
    (GENERATE, P | {"size": "auto"}, "unsupported_size", "size"),
    (GENERATE, P | {"size": "33x32"}, "unsupported_size", "size"),
    (GENERATE, P | {"size": "0x32"}, "unsupported_size", "size"),
    (GENERATE, P | {"size": "99984x32"}, "unsupported_size", "size"),
    (GENERATE, P | {"width": 33, "height": 32}, "unsupported_size", "size"),
    (GENERATE, P | {"width": 32}, "invalid_request", "height"),
    (GENERATE, P | {"height": 32}, "invalid_request", "width"),
    (GENERATE, P | {"size": "32x32", "width": 32}, "invalid_request", "width"),
    (GENERATE, P | {"num_inference_steps": 0}, "invalid_request", "num_inference_steps"),
    (GENERATE, P | {"num_inference_steps": 1001}, "invalid_request", "num_inference_steps"),
    (GENERATE, P | {"guidance_scale": 0.5}, "invalid_request", "guidance_scale"),
    (GENERATE, P | {"guidance_scale": 1e400}, "invalid_request", "guidance_scale"),
    (GENERATE, P | {"image_guidance_scale": 2}, "invalid_request", "image_guidance_scale"),
    (GENERATE, P | {"guidance_interval": [0.5]}, "invalid_request", "guidance_interval"),
    (GENERATE, P | {"guidance_interval": [0.9, 0.1]}, "invalid_request", "guidance_interval"),
    (GENERATE, P | {"guidance_interval": [0, 2]}, "invalid_request", "guidance_interval.1"),
    (GENERATE, P | {"solver": "heun"}, "invalid_request", "solver"),
    (GENERATE, P | {"output_format": "gif"}, "invalid_request", "output_format"),
    (GENERATE, P | {"output_compression": 50}, "invalid_request", "output_compression"),
    (
        GENERATE,
        P | {"output_format": "jpeg", "output_compression": 101},
        "invalid_request",
        "output_compression",
    ),
    (GENERATE, P | {"response_format": "link"}, "invalid_request", "response_format"),
    (GENERATE, P | {"response_format": "binary", "n": 2}, "invalid_request", "response_format"),
    (GENERATE, P | {"response_format": "binary", "metadata": {"a": "b"}}, "invalid_request", "metadata"),
    (GENERATE, P | {"metadata": {"a": 1}}, "invalid_request", "metadata.a"),
    (GENERATE, P | {"metadata": {str(i): "" for i in range(17)}}, "invalid_request", "metadata"),
    (GENERATE, P | {"metadata": {"a" * 65: ""}}, "invalid_request", "metadata." + "a" * 65),
    (GENERATE, P | {"max_tokens": 5}, "unknown_field", "max_tokens"),
    (EDIT, P, "invalid_request", "image"),
    (EDIT, P | {"image": ""}, "invalid_request", "image"),
    (EDIT, P | {"image": []}, "invalid_request", "image"),
    (EDIT, P | {"image": 7}, "invalid_request", "image"),
    (EDIT, P | {"image": "not base64"}, "invalid_image", "image"),
    (EDIT, P | {"image": "AAAA"}, "invalid_image", "image"),
    (EDIT, P | {"image": "data:image/png,AAAA"}, "invalid_image", "image"),
    (EDIT, P | {"image": "https://example.org/a.png"}, "invalid_image", "image"),
    (EDIT, P | {"images": [PNG, "AAAA"]}, "invalid_image", "images.1"),
    (EDIT, P | {"image": WIDE}, "image_too_large", "image"),
    (EDIT, P | {"image": PNG, "images": [PNG]}, "invalid_request", "images"),
    (EDIT, P | {"images": [PNG] * 30}, "invalid_request", "images"),
    (EDIT, P | {"image": PNG, "mask": "AAAA"}, "invalid_image", "mask"),
    (EDIT, P | {"image": PNG, "mask": WIDE}, "image_too_large", "mask"),
    (EDIT, P | {"image": PNG, "mask": SMALL}, "invalid_request", "mask"),
    (EDIT, P | {"image": SMALL, "mask": SMALL}, "unsupported_size", "image"),
    (EDIT, P | {"image": PNG, "mask": PNG, "size": "48x48"}, "invalid_request", "size"),
    (EDIT, P | {"image": PNG, "size": "AUTO"}, "unsupported_size", "size"),
    (
        EDIT,
        P | {"image": PNG, "guidance_scale": 1, "image_guidance_scale": 2},
        "invalid_request",
        "image_guidance_scale",
    ),
    (UNDERSTAND, {}, "invalid_request", "prompt"),
    (UNDERSTAND, P | {"messages": [user(TEXT)]}, "invalid_request", "prompt"),
    (UNDERSTAND, {"messages": []}, "invalid_request", "messages"),
    (UNDERSTAND, {"messages": [user()]}, "invalid_request", "messages.0.content"),
    (
        UNDERSTAND,
        {"messages": [user(TEXT), user(TEXT, role="assistant")]},
        "invalid_request",
        "messages.1.role",
    ),
    (
        UNDERSTAND,
        {"messages": [user(TEXT), user(TEXT, role="system"), user(TEXT)]},
        "invalid_request",
        "messages.1.role",
    ),
    (
        UNDERSTAND,
        {"messages": [user(PICTURE, role="system"), user(TEXT)]},
        "invalid_request",
        "messages.0.content",
    ),
    (UNDERSTAND, {"messages": [user(TEXT, role="tool")]}, "invalid_request", "messages.0.role"),
    (UNDERSTAND, {"messages": [{"role": "user"}]}, "invalid_request", "messages.0.content"),
    (UNDERSTAND, {"messages": [user(TEXT) | {"name": "x"}]}, "unknown_field", "messages.0.name"),
    (UNDERSTAND, {"messages": [user({"type": "audio"})]}, "invalid_request", "messages.0.content.0"),
    (
        UNDERSTAND,
        {"messages": [user({"type": "text", "text": "a" * 61})]},
        "prompt_too_long",
        "messages.0.content",
    ),
    (
        UNDERSTAND,
        {"messages": [user({"type": "image_url", "image_url": {"url": 5}})]},
        "invalid_request",
        "messages.0.content.0.image_url.url",
    ),
    (
        UNDERSTAND,
        {"messages": [user({"type": "image_url", "image_url": {"url": PNG, "detail": "high"}})]},
        "invalid_request",
        "messages.0.content.0.image_url.detail",
    ),
    (UNDERSTAND, {"messages": [user(TEXT, *[PICTURE] * 30)]}, "invalid_request", "messages"),
    (UNDERSTAND, {"messages": [user(TEXT)], "image": PNG}, "invalid_request", "image"),
    (UNDERSTAND, P | {"images": [PNG] * 30}, "invalid_request", "images"),
    (UNDERSTAND, P | {"n": 1}, "unknown_field", "n"),
    (UNDERSTAND, P | {"max_tokens": 0}, "invalid_request", "max_tokens"),
    (UNDERSTAND, P | {"max_tokens": 17}, "invalid_request", "max_tokens"),
    (UNDERSTAND, P | {"temperature": -0.1}, "invalid_request", "temperature"),
    (UNDERSTAND, P | {"top_p": 0}, "invalid_request", "top_p"),
    (UNDERSTAND, P | {"stop": ["a"] * 5}, "invalid_request", "stop"),
    (UNDERSTAND, P | {"stop": [""]}, "invalid_request", "stop.0"),
]


@pytest.mark.parametrize("row", BAD, ids=lambda row: f"{row[0][4:]}-{row[3]}")
def test_a_wrong_field_is_refused_by_name(
    web: TestClient, png64: Callable[..., str], row: tuple[str, dict[str, Any], str, str]
) -> None:
    path, body, code, param = row
    text = json.dumps(body).replace("Infinity", "1e400").replace(PNG, png64())
    text = text.replace(WIDE, png64(101, 100)).replace(SMALL, png64(30, 30))
    answer = web.post(path, content=text, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert answer.headers["x-request-id"].startswith("req-")


BAD_BODIES = [
    (b"", 400, "invalid_request"),
    (b"{", 400, "invalid_request"),
    (b"[]", 400, "invalid_request"),
    (b'"a"', 400, "invalid_request"),
    (b"null", 400, "invalid_request"),
    (b'{"prompt": "a", "prompt": "b"}', 400, "invalid_request"),
    (b'{"prompt": "a", "guidance_scale": NaN}', 400, "invalid_request"),
    (b'{"prompt": "\xff"}', 400, "invalid_request"),
    (b'{"seed": ' + b"9" * 5000 + b"}", 400, "invalid_request"),
    (b"[" * 100_000, 400, "invalid_request"),
    (b'{"prompt": "' + b"a" * 200_000 + b'"}', 413, "body_too_large"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD_BODIES)
def test_a_body_that_is_no_request_is_refused(web: TestClient, body: bytes, status: int, code: str) -> None:
    answer = web.post(GENERATE, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "not_found"),
        ("POST", "/v1/generate/", 404, "not_found"),
        ("GET", "/v1/generate", 405, "method_not_allowed"),
        ("DELETE", "/readyz", 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
    ],
)
def test_paths_that_are_not_there_answer_in_the_envelope(
    web: TestClient, method: str, path: str, status: int, code: str
) -> None:
    answer = web.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}


def test_405_says_what_the_path_takes(web: TestClient) -> None:
    assert web.get(GENERATE).headers["allow"] == "POST"


def test_another_model_is_not_found(web: TestClient) -> None:
    answer = web.post(GENERATE, json={"prompt": "a", "model": "gpt"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")


def test_all_problems_are_said_at_once(web: TestClient) -> None:
    message = web.post(GENERATE, json={"n": 0, "seed": "x", "soler": "euler"}).json()["error"]["message"]
    for words in ("did you mean solver", "prompt is required", "n: ", "seed: "):
        assert words in message


def test_a_fault_of_ours_says_nothing_of_itself(
    gated_web: TestClient, gated: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(latents: Any) -> Any:
        raise RuntimeError("secret words")

    gated.decode = fail
    answer = gated_web.post(GENERATE, json={"prompt": "a"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["message"]) == (500, "internal_error", "internal error")
    assert "secret words" in caplog.text


def test_a_full_queue_says_when_to_come_back(gated_web: TestClient, gated: Any) -> None:
    async def refuse(*job: Any) -> None:
        raise engine_errors.EngineBusy("full", retry_after_seconds=7)

    gated_web.app.state.service.client._host.submit = refuse  # type: ignore[attr-defined]
    answer = gated_web.post(GENERATE, json={"prompt": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert answer.headers["retry-after"] == "7"


def test_every_error_has_a_status_of_its_own_or_of_its_base() -> None:
    trees = (vars(errors), vars(engine_errors), vars(model_errors))
    kinds = {kind for tree in trees for kind in tree.values() if isinstance(kind, type)}
    bases = {"RequestError", "TooManyRequests", "EngineError", "EngineUnavailable", "ModelError"}
    inside = {"JobFailed", "BadCheckpoint", "UnusableQuantization", "Cancelled", "KeptError"}
    for kind in kinds:
        if (
            issubclass(kind, Exception)
            and kind.__name__ not in bases | inside
            and "errors" in kind.__module__
        ):
            assert status_of(kind("words"))[0] < 500 or status_of(kind("words"))[1] != "internal_error", kind


def test_what_is_not_in_the_table_is_an_internal_error() -> None:
    assert status_of(KeyError()) == (500, "internal_error")
    assert error_type(500) == "server_error"


def test_an_error_that_was_kept_is_told_as_it_was() -> None:
    for error in (
        InvalidRequest("wrong", param="size"),
        engine_errors.DeadlineUnreachable("late", retry_after_seconds=7),
        engine_errors.DeadlineExceeded("late"),
    ):
        kept = json.loads(json.dumps(keep(error)))
        again = KeptError(kept)
        assert status_of(again) == status_of(error)
        assert (str(again), again.param) == (str(error), getattr(error, "param", None))
        assert again.retry_after_seconds == getattr(error, "retry_after_seconds", None)
        assert keep(again) == kept


def test_a_fault_of_ours_is_kept_without_its_words() -> None:
    kept = keep(RuntimeError("secret words"))
    assert (kept["status"], kept["code"], kept["message"]) == (500, "internal_error", "internal error")


@pytest.mark.parametrize(("field", "param"), [(None, "size"), ("request", "request.size")])
def test_a_field_is_named_as_a_part_of_where_it_came(field: str | None, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused, within(field):
        raise InvalidRequest("wrong", param="size")
    assert refused.value.param == param


def test_the_page_of_errors_lists_every_code_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", Path("docs/errors.md").read_text(), re.MULTILINE)
    listed = {(int(status), code) for status, code in rows}
    routing = {(int(status), code) for status, code in ROUTING_CODES.items()}
    assert listed == {(int(status), code) for status, code in STATUS.values()} | routing | {
        (500, "internal_error")
    }
    assert len(rows) == len(listed)
