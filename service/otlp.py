"""Spans sent to an OpenTelemetry collector: OTLP over HTTP, in batches, on a thread of its own.

Names are those of OpenTelemetry's semantic conventions (http.*, url.*, error.*, gen_ai.*) where there are
any, else hbridge.*. The library's own variables (OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER,
OTEL_SERVICE_NAME, OTEL_BSP_*, ...) hold as they do everywhere.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from model.question import Answered, Question
from service.content import content_of
from service.engine.job import Event, Finished, Job
from service.errors import status_of
from service.stages import Stage, Stages, Value
from service.tracing import Attributes, Span, Tracing, traced_by

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"})
FLUSH_SECONDS = 3.0
PROPAGATOR = TraceContextTextMapPropagator()


class RecordedSpan(Span):
    """A span that is sent when it has ended."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.trace_id = trace.format_trace_id(span.get_span_context().trace_id)

    def set(self, attributes: Attributes) -> None:
        """Say more about it."""
        self._span.set_attributes(attributes)

    def answer(self, method: str, route: str | None, status: int, code: str | None) -> None:
        """Say how the request ended that this is the span of; only what is our fault is a failure here."""
        self.set({"http.response.status_code": status})
        if route:
            self.set({"http.route": route})
            self._span.update_name(f"{method} {route}")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self.fail(code or str(status))
        elif status >= HTTPStatus.BAD_REQUEST:
            self.set({"error.type": code or str(status)})

    def fail(self, code: str) -> None:
        """Mark it as failed."""
        self.set({"error.type": code})
        self._span.set_status(StatusCode.ERROR, code)


class OtlpTracing(Tracing):
    """Records spans and sends them, from its making to `stop`.

    Args:
        endpoint: The collector's base address.
        model: Its name on the wire.
        log_content: Whether prompts, but never images, are recorded too.
    """

    def __init__(self, endpoint: str, *, model: str, log_content: bool = False) -> None:
        self._model, self._log_content = model, log_content
        own = {
            "service.name": "hbridge",
            "service.version": version("hbridge"),
            "service.instance.id": str(uuid4()),
        }
        resource = Resource.create(own).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("hbridge", version("hbridge"))

    @contextmanager
    def request(self, scope: Mapping[str, Any]) -> Iterator[Span]:
        """Open the span of an HTTP request, in the caller's trace when it names one."""
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        attributes: dict[str, Value] = {
            "http.request.method": method,
            "url.path": scope["path"][:200],
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
            "hbridge.request_id": scope["state"]["request_id"],
        }
        name, state = "HTTP" if method == "_OTHER" else method, scope["state"]
        with self._open(name, attributes, _context_of(scope), SpanKind.SERVER) as span:
            try:
                yield span
            finally:
                route = getattr(scope.get("route"), "path", None)
                span.answer(name, route, state["status"], state.get("error_code"))

    @contextmanager
    def resume(self, name: str, carrier: Mapping[str, str]) -> Iterator[Span]:
        """Open a span of work that goes on after its request."""
        with self._open(name, {}, PROPAGATOR.extract(carrier, context.Context()), SpanKind.CONSUMER) as span:
            yield span

    @contextmanager
    def span(self, name: str, attributes: Attributes) -> Iterator[Span]:
        """Open a span in what is in progress here; an exception that leaves it marks it as failed."""
        with self._open(name, attributes, None, SpanKind.INTERNAL) as span:
            try:
                yield span
            except BaseException as error:
                span.fail(code_of(error))
                raise

    def carrier(self) -> dict[str, str]:
        """Return the trace that is in progress here as W3C headers."""
        headers: dict[str, str] = {}
        PROPAGATOR.inject(headers)
        return headers

    @contextmanager
    def follow(self, job: Job) -> Iterator[Callable[[Event], None]]:
        """Go along with a job: its stages become spans, what it is and took is said of their parent."""
        parent, stages = context.get_current(), Stages(time.time_ns())
        span = RecordedSpan(trace.get_current_span(parent))
        span.set({"gen_ai.request.model": self._model} | _asked(job))
        if self._log_content:
            span.set({f"hbridge.{name}": json.dumps(said) for name, said in content_of(job.work).items()})

        def take(event: Event) -> None:
            stages.take(event, time.time_ns())
            if isinstance(event, Finished):
                span.set({"gen_ai.response.model": self._model} | _answered(event))

        code = None
        try:
            yield take
        except BaseException as error:
            code = code_of(error)
            raise
        finally:
            for stage in stages.end(time.time_ns(), code):
                self._record(stage, parent)

    async def stop(self) -> None:
        """Send what is left; who does not take it in time holds nothing up."""
        ending = threading.Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, FLUSH_SECONDS)
        if ending.is_alive():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]

    @contextmanager
    def _open(
        self, name: str, attributes: Attributes, parent: context.Context | None, kind: SpanKind
    ) -> Iterator[RecordedSpan]:
        # The library would record the words of exceptions, which may be a caller's.
        opened = self._tracer.start_as_current_span(
            name, parent, kind, attributes, record_exception=False, set_status_on_exception=False
        )
        with traced_by(self), opened as span:
            yield RecordedSpan(span)

    def _record(self, stage: Stage, parent: context.Context) -> None:
        span = self._tracer.start_span(
            stage.name, parent, attributes=stage.attributes, start_time=stage.begun
        )
        for moment in stage.moments:
            span.add_event(moment.name, moment.attributes, moment.time)
        if stage.error:
            RecordedSpan(span).fail(stage.error)
        span.end(stage.ended)


def code_of(error: BaseException) -> str:
    """Return an error's code on the wire, or the name of its class when it has none there."""
    if not isinstance(error, Exception):
        return "cancelled"  # its task or its generator was
    code = status_of(error)[1]
    return type(error).__qualname__ if code == "internal_error" else code


def _context_of(scope: Mapping[str, Any]) -> context.Context:
    """Return the caller's trace; nothing else that is in progress here is gone on with."""
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    if len(headers.get("traceparent", ())) > 1:
        headers = {}
    return PROPAGATOR.extract(headers, context.Context())


def _asked(job: Job) -> dict[str, Value]:
    work = job.work
    asked: dict[str, Value | None] = {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "hbridge",
        "gen_ai.response.id": job.id,
        "gen_ai.request.seed": work.seed,
        "hbridge.task": job.task,
        "hbridge.priority": job.priority,
        "hbridge.deadline_seconds": job.deadline_seconds,
    }
    if isinstance(work, Question):
        asked |= {
            "gen_ai.output.type": "text",
            "gen_ai.request.max_tokens": work.max_tokens,
            "gen_ai.request.temperature": work.temperature,
            "gen_ai.request.top_p": work.top_p,
        }
    else:
        asked |= {
            "gen_ai.output.type": "image",
            "gen_ai.request.choice.count": work.n,
            "hbridge.num_inference_steps": work.num_inference_steps,
        }
    return {name: value for name, value in asked.items() if value is not None}


def _answered(finished: Finished) -> dict[str, Value]:
    result = finished.result
    answered: dict[str, Value] = {
        "gen_ai.usage.input_tokens": result.usage.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": result.usage.cached_prompt_tokens,
        "hbridge.device_seconds": finished.timings.device_seconds,
        "hbridge.expected_seconds": finished.timings.expected_seconds,
    }
    if isinstance(result, Answered):
        return answered | {
            "gen_ai.usage.output_tokens": result.usage.completion_tokens,
            "gen_ai.response.finish_reasons": [result.finish_reason],
        }
    return answered | {
        "gen_ai.usage.output_tokens": result.usage.image_tokens,
        "hbridge.size": str(result.size),
    }
