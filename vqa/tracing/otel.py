"""Spans through OpenTelemetry; imported only where a process traces."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from vqa.tracing.attributes import ERROR_TYPE, Value
from vqa.tracing.traceparent import Traceparent

Kind = Literal["internal", "server", "client", "producer", "consumer"]

#: parent of no span, whatever span the thread is in
_NO_PARENT = Context()


class Tracing:
    """Makes spans; thread-safe. All times are in ns since the epoch, on this machine's clock."""

    def __init__(self, provider: trace.TracerProvider, ids: ChosenIds | None = None) -> None:
        """`ids` is the provider's generator of ids; without it, spans cannot be given one."""
        self._tracer = provider.get_tracer("vqa", version("vqa-queue"))
        self._ids = ids

    def start(
        self,
        name: str,
        kind: Kind,
        parent: Traceparent | None = None,
        *,
        at_ns: int | None = None,
        attributes: Mapping[str, Value] | None = None,
        links: Sequence[Traceparent] = (),
        trace_id: str | None = None,
        span_id: str | None = None,
    ) -> Span:
        """Start a span, to be ended by its caller; without a parent it is the root of a trace."""
        with self._chosen(trace_id, span_id):
            return self._tracer.start_span(
                name,
                context=_context(parent) if parent else _NO_PARENT,
                kind=SpanKind[kind.upper()],
                attributes=attributes,
                links=[Link(_span_context(each)) for each in links] or None,
                start_time=at_ns,
            )

    def end(self, span: Span, at_ns: int | None = None, error: str | None = None) -> None:
        """End a span, as failed if the code of an error is given."""
        if error is not None:
            span.set_attribute(ERROR_TYPE, error)
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(at_ns)

    def record(self, name: str, kind: Kind, parent: Traceparent, start_ns: int, end_ns: int, **others: Any) -> None:
        """Record a span that is over; `others` are arguments of `start`."""
        self.start(name, kind, parent, at_ns=start_ns, **others).end(max(start_ns, end_ns))

    def current(self) -> Traceparent | None:
        """Return the span that the calling thread or task is in."""
        context = trace.get_current_span().get_span_context()
        return traceparent(context) if context.is_valid else None

    @contextmanager
    def _chosen(self, trace_id: str | None, span_id: str | None) -> Iterator[None]:
        if self._ids is None or (trace_id is None and span_id is None):
            yield
            return
        with self._ids.chosen(trace_id, span_id):
            yield


class ChosenIds:
    """Generates random ids, and in `chosen` those that the caller wants; has the methods of the SDK's IdGenerator."""

    def __init__(self) -> None:
        #: `trace_id` and `span_id`: what the thread wants
        self._thread = threading.local()

    @contextmanager
    def chosen(self, trace_id: str | None, span_id: str | None) -> Iterator[None]:
        self._thread.trace_id, self._thread.span_id = trace_id, span_id
        try:
            yield
        finally:
            self._thread.trace_id = self._thread.span_id = None

    def generate_trace_id(self) -> int:
        return self._id(getattr(self._thread, "trace_id", None), 16)

    def generate_span_id(self) -> int:
        return self._id(getattr(self._thread, "span_id", None), 8)

    def is_trace_id_random(self) -> bool:
        return getattr(self._thread, "trace_id", None) is None

    @staticmethod
    def _id(wanted: str | None, size: int) -> int:
        # 0 is no id
        return int(wanted, 16) if wanted else int.from_bytes(os.urandom(size)) or 1


def traceparent(context: SpanContext) -> Traceparent:
    return Traceparent(f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags))


def _span_context(parent: Traceparent) -> SpanContext:
    flags = TraceFlags(parent.flags)
    return SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)


def _context(parent: Traceparent) -> Context:
    return trace.set_span_in_context(NonRecordingSpan(_span_context(parent)), _NO_PARENT)
