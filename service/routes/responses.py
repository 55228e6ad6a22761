"""What the API's document says of errors, for every route."""

from typing import Any

from service.schemas.answers import ErrorAnswer

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


EVENTS = "text/event-stream"


def stream_of(*events: str) -> dict[str, Any]:
    """Return what the document says of a stream's events, each by its schema's name."""
    references = [{"$ref": f"#/components/schemas/{name}"} for name in (*events, "ErrorAnswer")]
    return {EVENTS: {"schema": {"oneOf": references}}}


def body_of(schema: str, *, form: str | None = None) -> dict[str, Any]:
    """Return what the document says of a body that the route reads by itself."""
    content = {"application/json": schema} | ({"multipart/form-data": form} if form else {})
    references = {
        kind: {"schema": {"$ref": f"#/components/schemas/{name}"}} for kind, name in content.items()
    }
    return {"requestBody": {"required": True, "content": references}}
