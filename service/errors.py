"""Errors on the wire: one table from what happened to a status and a code, one envelope for all of them.

Anything that is not in the table is a 500 that says "internal error"; its words go to the log only.
"""

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from model.errors import (
    BadRequest,
    ImageTooLarge,
    InvalidImage,
    MissingCapability,
    ModelError,
    PromptTooLong,
    TooManyReferences,
    UnsupportedSize,
)
from service.engine.errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    EngineBusy,
    EngineDraining,
    EngineError,
    EngineNotReady,
    EngineRestarting,
    InsufficientMemory,
)
from service.schemas.answers import ErrorAnswer, ErrorData

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499


class RequestError(Exception):
    """Base of what the wire itself refuses.

    Attributes:
        param: The field that is wrong, if one is.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequest(RequestError):
    """A body that is not what the schema says."""


class UnknownField(RequestError):
    """A field that the endpoint does not have."""


class ModelNotFound(RequestError):
    """A model that is not loaded here."""


class JobNotFound(RequestError):
    """A job that there is not, or that is somebody else's."""


class FileGone(RequestError):
    """A picture that is no longer kept."""


class InvalidLink(RequestError):
    """A link to a picture that has expired, or that was not made here."""


class IdempotencyConflict(RequestError):
    """A key that stands for another request, or for one that has no answer."""


class JobGivenUp(RequestError):
    """A job that was cut off too often."""


class KeptError(RequestError):
    """What a job failed with, told once more.

    Attributes:
        kept: As `keep` returned it.
    """

    def __init__(self, kept: Mapping[str, Any]) -> None:
        super().__init__(kept["message"], param=kept["param"])
        self.kept = kept
        self.retry_after_seconds = kept["retry_after_seconds"]


class BodyTooLarge(RequestError):
    """More bytes than the server reads."""


class UnsupportedMediaType(RequestError):
    """A content type that the endpoint does not read."""


class InvalidApiKey(RequestError):
    """No key, or none that is good here."""


class MissingScope(RequestError):
    """A key that may not do this."""


class TooManyRequests(RequestError):
    """A tenant that has had its share for now.

    Attributes:
        retry_after_seconds: When it has some again.
    """

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class RateLimited(TooManyRequests):
    """More requests than may come in a time."""


class QuotaExhausted(TooManyRequests):
    """More device-seconds than may be used in a time."""


class ClientGone(RequestError):
    """Nobody waits for the answer any more."""


STATUS: Mapping[type[Exception], tuple[int, str]] = {
    InvalidRequest: (HTTPStatus.BAD_REQUEST, "invalid_request"),
    UnknownField: (HTTPStatus.BAD_REQUEST, "unknown_field"),
    ImageTooLarge: (HTTPStatus.BAD_REQUEST, "image_too_large"),
    BadRequest: (HTTPStatus.BAD_REQUEST, "invalid_request"),
    InvalidImage: (HTTPStatus.BAD_REQUEST, "invalid_image"),
    PromptTooLong: (HTTPStatus.BAD_REQUEST, "prompt_too_long"),
    UnsupportedSize: (HTTPStatus.BAD_REQUEST, "unsupported_size"),
    TooManyReferences: (HTTPStatus.BAD_REQUEST, "invalid_request"),
    MissingCapability: (HTTPStatus.BAD_REQUEST, "invalid_request"),
    InvalidApiKey: (HTTPStatus.UNAUTHORIZED, "invalid_api_key"),
    MissingScope: (HTTPStatus.FORBIDDEN, "missing_scope"),
    RateLimited: (HTTPStatus.TOO_MANY_REQUESTS, "rate_limited"),
    QuotaExhausted: (HTTPStatus.TOO_MANY_REQUESTS, "quota_exhausted"),
    ModelNotFound: (HTTPStatus.NOT_FOUND, "model_not_found"),
    JobNotFound: (HTTPStatus.NOT_FOUND, "job_not_found"),
    FileGone: (HTTPStatus.NOT_FOUND, "file_not_found"),
    InvalidLink: (HTTPStatus.FORBIDDEN, "invalid_link"),
    IdempotencyConflict: (HTTPStatus.CONFLICT, "idempotency_conflict"),
    JobGivenUp: (HTTPStatus.INTERNAL_SERVER_ERROR, "job_given_up"),
    BodyTooLarge: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large"),
    UnsupportedMediaType: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
    EngineBusy: (HTTPStatus.TOO_MANY_REQUESTS, "queue_full"),
    DeadlineUnreachable: (HTTPStatus.TOO_MANY_REQUESTS, "deadline_unreachable"),
    DeadlineExceeded: (HTTPStatus.GATEWAY_TIMEOUT, "deadline_exceeded"),
    ClientGone: (CLIENT_CLOSED_REQUEST, "cancelled"),
    ClientDisconnect: (CLIENT_CLOSED_REQUEST, "cancelled"),
    EngineNotReady: (HTTPStatus.SERVICE_UNAVAILABLE, "not_ready"),
    EngineRestarting: (HTTPStatus.SERVICE_UNAVAILABLE, "engine_restarting"),
    EngineDraining: (HTTPStatus.SERVICE_UNAVAILABLE, "draining"),
    InsufficientMemory: (HTTPStatus.INSUFFICIENT_STORAGE, "insufficient_memory"),
}

ROUTING_CODES = {HTTPStatus.NOT_FOUND: "not_found", HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed"}


def add_error_handlers(app: FastAPI) -> None:
    """Let every error leave in the envelope."""
    app.add_exception_handler(HTTPException, _answer_routing)
    for kind in (RequestError, ModelError, EngineError, ClientDisconnect, Exception):
        app.add_exception_handler(kind, answer_error)


def explain(request: Request, error: Exception) -> tuple[int, ErrorAnswer]:
    """Return an error's status and its words for the client; what is our fault goes to the log only."""
    status, code = status_of(error)
    if code == "internal_error":
        log.error("internal error", exc_info=error)
    message = "internal error" if code == "internal_error" else str(error)
    return status, enveloped(request, status, code, message, param=getattr(error, "param", None))


def enveloped(
    request: Request, status: int, code: str, message: str, *, param: str | None = None
) -> ErrorAnswer:
    """Put an error in the envelope, and leave word of it where the access log and the metrics look."""
    request.state.error_code, request.state.error_status = code, status
    return ErrorAnswer(error=ErrorData(message=message, type=error_type(status), param=param, code=code))


@contextmanager
def within(field: str | None) -> Generator[None]:
    """Let errors name a field as a part of the one that it came in."""
    try:
        yield
    except (RequestError, BadRequest) as error:
        if field:
            error.param = f"{field}.{error.param}" if error.param else field
        raise


def error_type(status: int) -> str:
    """Return the OpenAI API's word for a kind of error."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"


def status_of(error: Exception) -> tuple[int, str]:
    """Look an error up by its class, then by its nearest base."""
    if isinstance(error, KeptError):
        return error.kept["status"], error.kept["code"]
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error"


def keep(error: Exception) -> dict[str, Any]:
    """Return what can be told of an error later, as plain data."""
    status, code = status_of(error)
    is_internal = code == "internal_error"
    return {
        "status": int(status),
        "code": code,
        "message": "internal error" if is_internal else str(error),
        "type": error_type(status),
        "param": None if is_internal else getattr(error, "param", None),
        "retry_after_seconds": getattr(error, "retry_after_seconds", None),
    }


async def answer_error(request: Request, error: Exception) -> Response:
    """Return the answer to an error."""
    status, words = explain(request, error)
    headers = {}
    if (seconds := getattr(error, "retry_after_seconds", None)) is not None:
        headers["Retry-After"] = str(seconds)
    if isinstance(error, InvalidApiKey):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(words.model_dump(), status, headers)


async def _answer_routing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    if "Allow" in headers:
        headers["Allow"] = _methods(request) or headers["Allow"]
    hint = f"; it takes {headers['Allow']}" if "Allow" in headers else "; /docs lists what there is"
    message = f"{request.method} {request.url.path}: {status.phrase.lower()}{hint}"
    words = enveloped(request, status, ROUTING_CODES.get(status, "invalid_request"), message)
    return JSONResponse(words.model_dump(), status, headers)


def _methods(request: Request) -> str:
    """Return all methods of a path, of which a route has one; "" where the document does not have it."""
    path = getattr(request.scope.get("route"), "path", "")
    return ", ".join(sorted(map(str.upper, request.app.openapi()["paths"].get(path, {}))))
