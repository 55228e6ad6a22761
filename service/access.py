"""Around every request: an id, a log line, a trace, and its place in the metrics."""

import logging
import secrets
import time

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.errors import CLIENT_CLOSED_REQUEST, answer_error
from service.metrics import Metrics
from service.tracing import OFF, Tracing

log = logging.getLogger(__name__)

TASKS = {
    "/v1/generate": "generate",
    "/v1/edit": "edit",
    "/v1/understand": "understand",
    "/v1/images/generations": "generate",
    "/v1/images/edits": "edit",
    "/v1/chat/completions": "understand",
}
QUIET = frozenset({"/livez", "/readyz", "/health", "/metrics"})


class Access:
    """Middleware that names, logs, traces and counts requests; it reads no body and holds nothing back."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing = OFF) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and take note of its end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = f"req-{secrets.token_hex(12)}"
        # A request whose handler is cut off never sends a status.
        status, begun = CLIENT_CLOSED_REQUEST, time.perf_counter()

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = state["request_id"]
            await send(message)

        logs.bind(request=state["request_id"])
        tracing = OFF if scope["path"] in QUIET else self._tracing
        with tracing.request(scope) as span:
            logs.bind(trace=span.trace_id)
            try:
                await self._app(scope, receive, send_named)
            except Exception as error:
                # Not foreseen; answered here, where the answer gets the request's id and its place.
                answer = await answer_error(Request(scope), error)
                if status != CLIENT_CLOSED_REQUEST:
                    raise
                await answer(scope, receive, send_named)
            finally:
                # A stream that has begun well may still end otherwise.
                state["status"] = state.get("error_status", status)
                self._note(scope, state["status"], time.perf_counter() - begun)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        code = scope["state"].get("error_code")
        task = scope["state"].get("task") or TASKS.get(scope["path"])
        if scope["method"] == "POST" and task:
            self._metrics.answered(task, outcome_of(status), seconds)
            if outcome_of(status) == "rejected":
                self._metrics.rejected(code or "unknown")
        fields = {
            "request": scope["state"]["request_id"],
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "seconds": seconds,
        }
        state = scope["state"]
        named = {"code": code, "end_user": state.get("end_user"), "tenant": state.get("tenant")}
        fields |= {name: value for name, value in named.items() if value}
        level = logging.DEBUG if scope["path"] in QUIET else logging.INFO
        log.log(level, "request", extra=fields)


def outcome_of(status: int) -> str:
    """Return a status in the metrics' words."""
    if status == CLIENT_CLOSED_REQUEST:
        return "cancelled"
    if status < 400:
        return "ok"
    # 503 and 507 say no before or instead of the work, as 4xx do; 500 is a fault.
    return "failed" if status == 500 else "rejected"
