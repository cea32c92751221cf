"""A receiver of OTLP over HTTP: keeps the spans that real processes export."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

#: seconds; processes export half a second after a span's end
_WAIT_S = 60.0


@dataclass(frozen=True)
class ReceivedSpan:
    """A span with ids in hexadecimal digits and times in ns since the epoch."""

    name: str
    service: str
    kind: str
    trace_id: str
    span_id: str
    #: '' for a root
    parent_id: str
    start: int
    end: int
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    failed: bool
    #: everything that was sent, to look for what must not be in it
    text: str = field(repr=False)


class OtlpReceiver:
    """Listens on a free port of the loopback; `with OtlpReceiver() as receiver`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[ReceivedSpan] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver._take(self.path, body)
                reply = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a process that exports here, soon after a span's end."""
        endpoint = f"http://127.0.0.1:{self._server.server_port}"
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"}

    def spans(self, job_id: str | None = None, trace_id: str | None = None) -> list[ReceivedSpan]:
        """Return the spans of a job's trace, or of a trace, or all; the earliest first."""
        with self._lock:
            found = sorted(self._spans, key=lambda span: span.start)
        if job_id is not None:
            traces = {each.trace_id for each in found if each.attributes.get("messaging.message.id") == job_id}
            found = [each for each in found if each.trace_id in traces]
        return [each for each in found if trace_id in (None, each.trace_id)]

    def wait(self, fits: Callable[[list[ReceivedSpan]], bool], **of: str) -> list[ReceivedSpan]:
        """Return `spans(**of)` once they fit."""
        end = time.monotonic() + _WAIT_S
        while not fits(found := self.spans(**of)):
            assert time.monotonic() < end, [f"{each.service}: {each.name}" for each in found]
            time.sleep(0.05)
        return found

    def _take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            for resource in request.resource_spans:
                about = {each.key: _value(each.value) for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self._spans += [_received(span, str(about["service.name"])) for span in scope.spans]


def _received(span: Span, service: str) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        service=service,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes={each.key: _value(each.value) for each in span.attributes},
        links=[(each.trace_id.hex(), each.span_id.hex()) for each in span.links],
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        text=str(span),
    )


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, str(kind))
