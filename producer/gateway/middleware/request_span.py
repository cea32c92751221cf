"""The span of a request, by OpenTelemetry's conventions for HTTP, with nothing in it that a user has written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from producer.gateway.errors import ClientGone
from producer.gateway.http.methods import METHODS
from vqa.tracing import attributes as names
from vqa.tracing.otel import Tracing, traceparent
from vqa.tracing.traceparent import Traceparent

#: what the conventions call other methods
_OTHER = "_OTHER"


class RequestSpan:
    """A request from its first byte to the last one of its response."""

    def __init__(self, tracing: Tracing, method: str, caller: Traceparent | None) -> None:
        self._tracing = tracing
        self._method = method if method in METHODS else _OTHER
        # a path is named by its route, which is known once the request is routed
        about: dict[str, names.Value] = {names.HTTP_METHOD: self._method}
        self._span = tracing.start(self._method, "server", caller, attributes=about)
        self.trace = traceparent(self._span.get_span_context())
        #: of the response, if one has begun
        self.status = ClientGone.status

    def end(self, scope: Mapping[str, Any]) -> None:
        """End it with the response's status, and with the route and the job that the scope names."""
        if not self._span.is_recording():
            return
        self._span.set_attribute(names.HTTP_STATUS, self.status)
        if route := getattr(scope.get("route"), "path", None):
            self._span.update_name(f"{self._method} {route}")
            self._span.set_attribute(names.HTTP_ROUTE, route)
        if job_id := scope["state"].get("job_id"):
            self._span.set_attribute(names.MESSAGING_ID, job_id)
        self._tracing.end(self._span, error=str(self.status) if self.status >= 500 else None)
