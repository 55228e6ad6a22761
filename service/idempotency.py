"""Idempotency keys: what a client may call a request, and when two requests are the same."""

import base64
import hashlib
import json
from typing import Any

from fastapi import Request

from service.errors import InvalidRequest
from service.schemas.body import Body

HEADER = "Idempotency-Key"
MAX_CHARS = 255


def key_of(request: Request) -> str | None:
    """Return the key that a request came with.

    Raises:
        InvalidRequest: It cannot be a key.
    """
    keys = request.headers.getlist(HEADER)
    if not keys:
        return None
    if len(keys) > 1 or not 1 <= len(keys[0]) <= MAX_CHARS or not keys[0].isprintable():
        raise InvalidRequest(f"{HEADER} must be one value of 1 to {MAX_CHARS} characters", param=HEADER)
    return keys[0]


def check_whole(asked: Body) -> None:
    """Refuse a request whose answer comes in pieces, which is not kept.

    Raises:
        InvalidRequest: Says what to change.
    """
    if asked.stream:
        raise InvalidRequest(
            f"what is run as a job, as with an {HEADER}, is not streamed; leave stream out", param="stream"
        )


def to_text(asked: Body) -> str:
    """Write a request as JSON that reads back as the same; images that came as files are base64 then.

    Fields at their defaults are left out, so that requests that mean the same are the same text.
    """
    return json.dumps(asked.model_dump(exclude_defaults=True), default=_encoded, sort_keys=True)


def fingerprint(what: str, asked: Body, webhook: dict[str, Any] | None = None) -> str:
    """Return what two requests share exactly when they ask for the same.

    Args:
        what: The task, or the endpoint where a request has another form than the task's.
    """
    return hashlib.sha256(json.dumps([what, to_text(asked), webhook]).encode()).hexdigest()


def key_of_part(key: str, index: int) -> str:
    """Return the key of one of several jobs that a request with a key takes; no client can send it."""
    return f"{key}\n{index}" if index else key


def _encoded(data: object) -> str:
    assert isinstance(data, bytes), "only files are not JSON"
    return base64.b64encode(data).decode()
