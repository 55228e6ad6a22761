"""An OpenTelemetry collector in this process: takes OTLP over HTTP and keeps the spans."""

import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

ERROR = 2
SERVER = 2


@dataclass(frozen=True)
class Told:
    """A span as it was told."""

    name: str
    trace_id: str
    id: str
    parent_id: str
    kind: int
    begun: int
    ended: int
    attributes: dict[str, Any]
    events: list[tuple[str, int, dict[str, Any]]]
    status: int
    message: str

    @property
    def seconds(self) -> float:
        return (self.ended - self.begun) / 1e9


class Collector:
    """Listens at `endpoint` from the start of a with block to its end."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                assert self.headers["content-type"] == "application/x-protobuf"
                outer.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(20)

    @property
    def resource(self) -> dict[str, Any]:
        return plain(self.requests[0].resource_spans[0].resource.attributes)

    @property
    def spans(self) -> list[Told]:
        """All spans so far, in the order in which they began."""
        return sorted(self._spans(), key=lambda span: (span.begun, span.ended))

    def _spans(self) -> Iterator[Told]:
        for request in self.requests:
            for of_resource in request.resource_spans:
                for of_scope in of_resource.scope_spans:
                    for span in of_scope.spans:
                        yield Told(
                            name=span.name,
                            trace_id=span.trace_id.hex(),
                            id=span.span_id.hex(),
                            parent_id=span.parent_span_id.hex(),
                            kind=span.kind,
                            begun=span.start_time_unix_nano,
                            ended=span.end_time_unix_nano,
                            attributes=plain(span.attributes),
                            events=[(e.name, e.time_unix_nano, plain(e.attributes)) for e in span.events],
                            status=span.status.code,
                            message=span.status.message,
                        )

    @property
    def wire(self) -> bytes:
        """Everything that came, as it came."""
        return b"".join(request.SerializeToString() for request in self.requests)


def plain(attributes: Any) -> dict[str, Any]:
    """Return attributes as a dictionary."""
    return {each.key: _value(each.value) for each in attributes if isinstance(each, KeyValue)}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return (
        [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)
    )
