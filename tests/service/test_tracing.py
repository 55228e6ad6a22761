import subprocess
import sys

import pytest

from model.drawing import Drawing
from model.request import Progress
from service.engine.job import Job
from service.settings import Settings
from service.tracing import OFF, Span, Tracing, carrier, create_tracing, span, traced_by

SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": []}
CHECK = (
    "import sys, service.server, service.loading; print(*(n for n in sys.modules if n.startswith('opentel')))"
)


class Recording(Tracing):
    """Writes down what is opened."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def span(self, name: str, attributes: object) -> object:  # type: ignore[override]
        self.names.append(name)
        return super().span(name, {})

    def carrier(self) -> dict[str, str]:
        return {"traceparent": "here"}


def test_off_does_nothing_at_all() -> None:
    assert create_tracing(Settings(), "tiny") is OFF
    with OFF.request(SCOPE) as request, OFF.resume("job", {}) as resumed, span("fetch") as inner:
        for each in (request, resumed, inner):
            assert each.trace_id == ""
            each.set({"a": 1})
    with OFF.follow(Job(id="a", work=Drawing(prompt="a"))) as take:
        take(Progress(stage="queue", done=0, total=1))
    assert carrier() == {}


def test_a_span_goes_to_whoever_traces_what_is_in_progress() -> None:
    outer, inner = Recording(), Recording()
    with span("nobody's"), traced_by(outer):
        with span("fetch") as fetch, traced_by(inner), span("deeper"):
            assert isinstance(fetch, Span)
        with span("sign"):
            assert carrier() == {"traceparent": "here"}
    assert (outer.names, inner.names) == (["fetch", "sign"], ["deeper"])
    assert carrier() == {}


def test_an_error_passes_through_a_span_that_is_not_recorded() -> None:
    with pytest.raises(KeyError), span("fetch"):
        raise KeyError


@pytest.mark.slow
def test_what_sends_traces_is_not_imported_when_it_is_off() -> None:
    found = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=True).stdout
    # FastAPI imports the interface for itself.
    sending = [
        name for name in found.split() if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))
    ]
    assert sending == []
