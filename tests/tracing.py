"""Traces that a test's own process keeps: OpenTelemetry's SDK, with the spans in memory."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from vqa.tracing.otel import Tracing
from vqa.tracing.provider import Ids


class Recorded:
    """`tracing` as processes of ours have it, and the spans that have ended."""

    def __init__(self) -> None:
        ids = Ids()
        self.provider = TracerProvider(id_generator=ids)
        self._spans = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.tracing = Tracing(self.provider, ids)

    def spans(self, name: str) -> Sequence[ReadableSpan]:
        return [span for span in self._spans.get_finished_spans() if span.name == name]
