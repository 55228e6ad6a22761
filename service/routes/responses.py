"""What the API's document says of errors, for every route."""

import base64
from typing import Any

from fastapi import Response

from service.schemas.answers import ErrorAnswer, ImagesAnswer

REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "model": ErrorAnswer,
        "description": "The request is wrong, too large, or came too early; says what to change.",
    },
    "5XX": {"model": ErrorAnswer, "description": "The service cannot do it now, or failed."},
}

GUARDED: dict[int | str, dict[str, Any]] = REFUSALS | {
    401: {"model": ErrorAnswer, "description": "No API key, or none that is good here."},
    403: {"model": ErrorAnswer, "description": "The API key lacks the scope that this needs."},
    429: {
        "model": ErrorAnswer,
        "description": "Too many requests, a quota is used up, or the queue is full; Retry-After says when "
        "to come back.",
    },
}


FILES = {
    f"image/{kind}": {"schema": {"type": "string", "format": "binary"}} for kind in ("png", "jpeg", "webp")
}


def file_of(made: ImagesAnswer, headers: dict[str, str] | None = None) -> Response:
    """Answer with the file of an answer's one picture; seed, model and receipt (JSON in base64) go along."""
    (image,) = made.images
    receipt = base64.b64encode(made.receipt.model_dump_json().encode()).decode()
    told = {"X-Seed": str(image.seed), "X-Model": made.model, "X-Receipt": receipt}
    return Response(
        base64.b64decode(image.b64_json or ""), media_type=image.mime_type, headers=told | (headers or {})
    )


EVENTS = "text/event-stream"


def stream_of(*events: str) -> dict[str, Any]:
    """Return what the document says of a stream whose events hold one of these, or an error, as JSON.

    Source: OpenAPI 3.2.0, section 4.14.4, sequential media types.
    """
    references = [{"$ref": f"#/components/schemas/{name}"} for name in (*events, "ErrorAnswer")]
    data: dict[str, Any] = {"type": "string", "contentMediaType": "application/json"}
    if events:
        data["contentSchema"] = {"oneOf": references}
    fields = {"event": {"type": "string"}, "id": {"type": "string"}, "data": data}
    return {EVENTS: {"schema": {"type": "object", "properties": fields, "required": ["data"]}}}


def body_of(schema: str, *, form: str | None = None) -> dict[str, Any]:
    """Return what the document says of a body that the route reads by itself."""
    content = {"application/json": schema} | ({"multipart/form-data": form} if form else {})
    references = {
        kind: {"schema": {"$ref": f"#/components/schemas/{name}"}} for kind, name in content.items()
    }
    return {"requestBody": {"required": True, "content": references}}
