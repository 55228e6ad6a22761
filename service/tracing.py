"""Where the time of a request goes, as spans. Off, nothing is recorded, and no library for it is imported.

Who does a piece of work opens a `span` around it, wherever that is: it belongs to the request, or the job,
that is in progress there. The stages of a job come from the engine as events and become spans at its end, so
the engine knows nothing of all this. Spans hold no prompts, images or keys.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from service.engine.job import Event, Job
from service.settings import Settings
from service.stages import Value

Attributes = Mapping[str, Value]


class Span:
    """A stretch of time; this one is not recorded.

    Attributes:
        trace_id: Of the trace that it is in, in hexadecimal; empty when there is none.
    """

    trace_id = ""

    def set(self, attributes: Attributes) -> None:
        """Say more about it."""


class Tracing:
    """Who records spans: nobody, but for what is overridden. One for each app."""

    def request(self, scope: Mapping[str, Any]) -> AbstractContextManager[Span]:
        """Open the span of an HTTP request, which goes on with the caller's trace when it names one.

        Args:
            scope: ASGI's; at the end its state says `status`, and `error_code` if there is one.
        """
        return nullcontext(Span())

    def resume(self, name: str, carrier: Mapping[str, str]) -> AbstractContextManager[Span]:
        """Open a span of work that goes on after its request, in the trace that `carrier` returned there."""
        return nullcontext(Span())

    def span(self, name: str, attributes: Attributes) -> AbstractContextManager[Span]:
        """Open a span in what is in progress here."""
        return nullcontext(Span())

    def carrier(self) -> dict[str, str]:
        """Return the trace that is in progress here as W3C headers, to be kept for `resume`."""
        return {}

    @contextmanager
    def follow(self, job: Job) -> Iterator[Callable[[Event], None]]:
        """Go along with a job and take its events; its stages become spans of what is in progress here."""
        yield _ignore

    async def stop(self) -> None:
        """Send what is recorded and not sent yet, as far as somebody takes it."""


OFF = Tracing()

_current: ContextVar[Tracing] = ContextVar("tracing", default=OFF)


def span(name: str, attributes: Attributes | None = None) -> AbstractContextManager[Span]:
    """Open a span around a piece of work: `with span("fetch"): ...`.

    An exception that leaves it marks it as failed, by its code and without its words.
    """
    return _current.get().span(name, attributes or {})


def carrier() -> dict[str, str]:
    """Return the trace that is in progress here as W3C headers, to be kept for `Tracing.resume`."""
    return _current.get().carrier()


@contextmanager
def traced_by(tracing: Tracing) -> Iterator[None]:
    """Let whoever opens spans in here, and in tasks and threads begun in here, have them recorded."""
    token = _current.set(tracing)
    try:
        yield
    finally:
        _current.reset(token)


def create_tracing(settings: Settings, model: str) -> Tracing:
    """Return who records spans as the settings say."""
    if settings.otlp_endpoint is None:
        return OFF
    from service.otlp import OtlpTracing  # noqa: PLC0415 - whoever does not trace needs none of its libraries

    return OtlpTracing(settings.otlp_endpoint, model=model, log_content=settings.log_content)


def _ignore(event: Event) -> None:
    """Take no note."""
