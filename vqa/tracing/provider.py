"""The SDK of this process: where spans go, and which are kept. Imported only where a process traces."""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import time
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator

from vqa.errors import SettingsError
from vqa.tracing.otel import ChosenIds, Tracing

#: what says that a collector is away, or too slow
_LOGGERS = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")

#: the exporter tries each batch several times, and writes a line each time
_LOG_EVERY_S = 60.0

#: seconds for the last spans to be sent when the process ends; one request to a collector that hangs takes ten
_STOP_S = 3.0

#: of a collector's address; it may be a key
_QUERY = re.compile(r"\?\S*")


class _Seldom(logging.Filter):
    """Lets one line a minute pass, without a traceback and a query."""

    def __init__(self) -> None:
        super().__init__()
        self._silent_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if time.monotonic() < self._silent_until:
            return False
        self._silent_until = time.monotonic() + _LOG_EVERY_S
        record.exc_info = record.exc_text = None
        record.msg, record.args = _QUERY.sub("?...", record.getMessage()), None
        return True


def _without_values(record: logging.LogRecord) -> bool:
    # quotes what it cannot read of OTEL_EXPORTER_OTLP_HEADERS, which may be a key
    record.args = ("...",) if record.args else None
    return True


class Ids(ChosenIds, IdGenerator):
    """For the SDK, which may ask for the class."""


class OwnTracing(Tracing):
    """Of a process of ours, whose end does not wait for a collector that does not answer."""

    def __init__(self, provider: TracerProvider, ids: Ids) -> None:
        super().__init__(provider, ids)
        self._provider = provider
        self._stopping, self._stopped = threading.Event(), threading.Event()
        # now: none can be started while the interpreter ends
        threading.Thread(target=self._stop, name="end of traces", daemon=True).start()
        atexit.register(self.stop)

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Export what has ended, for at most `timeout_s`, and nothing more."""
        self._stopping.set()
        self._stopped.wait(timeout_s)

    def _stop(self) -> None:
        self._stopping.wait()
        self._provider.shutdown()
        self._stopped.set()


def make_tracing(service: str, instance: str, exporter: str) -> OwnTracing:
    """Export spans in batches, in a thread of their own, to where OTEL_EXPORTER_OTLP_* say. Raises SettingsError.

    The provider is not the global one, so other libraries of the process trace nothing: a web framework's spans have
    paths and queries in them.
    """
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_Seldom())
    logging.getLogger("opentelemetry.util.re").addFilter(_without_values)
    ids = Ids()
    provider = TracerProvider(resource=_resource(service, instance), id_generator=ids, shutdown_on_exit=False)
    exports: SpanExporter = ConsoleSpanExporter() if exporter == "console" else OTLPSpanExporter()
    try:
        provider.add_span_processor(BatchSpanProcessor(exports))
    except ValueError as error:
        raise SettingsError(f"OTEL_BSP_*: {error}") from None
    return OwnTracing(provider, ids)


def _resource(service: str, instance: str) -> Resource:
    own = {SERVICE_VERSION: version("vqa-queue")}
    if instance:
        own[SERVICE_INSTANCE_ID] = instance
    if not os.environ.get("OTEL_SERVICE_NAME") and SERVICE_NAME not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        own[SERVICE_NAME] = service
    return Resource.create(own)
