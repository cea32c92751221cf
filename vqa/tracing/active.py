"""What this process traces with, if it does."""

from __future__ import annotations

import logging
import sys
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vqa.tracing.settings import exporter, why_not

if TYPE_CHECKING:
    from vqa.tracing.otel import Tracing
    from vqa.tracing.provider import OwnTracing

log = logging.getLogger(__name__)

#: of a process of ours; None in programs that use a client
_own: OwnTracing | None = None
#: whether this is a process of ours
_started = False


def start_tracing(service: str, instance: str = "") -> OwnTracing | None:
    """Let this process trace, if OTEL_* variables say so. Raises SettingsError."""
    global _own, _started
    _started = True
    chosen = exporter()
    if chosen is None:
        if why := why_not():
            log.warning("%s", why)
        return None
    from vqa.tracing.provider import make_tracing

    _own = make_tracing(service, instance, chosen)
    return _own


def active() -> Tracing | None:
    """Return what this process traces with: our own, or what the program that uses a client has set up."""
    if _started:
        return _own
    # a program that has not imported it traces nothing
    api = sys.modules.get("opentelemetry.trace")
    return None if api is None else _of_program(api)


def _of_program(api: ModuleType) -> Tracing | None:
    provider = api.get_tracer_provider()
    return None if isinstance(provider, api.ProxyTracerProvider | api.NoOpTracerProvider) else _tracing(provider)


@lru_cache(maxsize=1)
def _tracing(provider: Any) -> Tracing:
    from vqa.tracing.otel import Tracing

    return Tracing(provider)
