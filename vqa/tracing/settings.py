"""Whether this process traces, by OpenTelemetry's own variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec

from vqa.errors import SettingsError

_PACKAGES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")

#: any of these asks for traces, unless OTEL_TRACES_EXPORTER is `none`
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORTER = "OTEL_TRACES_EXPORTER"
_EXPORTERS = ("otlp", "console", "none")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_SAMPLER, _SAMPLER_ARGUMENT = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
_SAMPLERS = tuple(
    prefix + name for prefix in ("", "parentbased_") for name in ("always_on", "always_off", "traceidratio")
)


def exporter(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return `otlp` or `console`, or None if this process does not trace. Raises SettingsError."""
    chosen = _chosen(environment)
    if chosen is None or not _is_installed():
        return None
    _check(environment, chosen)
    return chosen


def why_not(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return why nothing is traced although variables ask for it: they may be meant for other programs."""
    if _chosen(environment) is None or _is_installed():
        return None
    asked = next(name for name in (_EXPORTER, *_ENDPOINTS) if environment.get(name))
    return f"{asked} is set and nothing is traced: pip install 'vqa-queue[otel]'"


def _is_installed() -> bool:
    try:
        return all(find_spec(name) for name in _PACKAGES)
    except ModuleNotFoundError:
        # a package above it is missing
        return False


def _chosen(environment: Mapping[str, str]) -> str | None:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    chosen = environment.get(_EXPORTER, "").strip().lower()
    if not chosen:
        return "otlp" if any(environment.get(name) for name in _ENDPOINTS) else None
    return None if chosen == "none" else chosen


def _check(environment: Mapping[str, str], chosen: str) -> None:
    """Raise SettingsError for what the SDK would replace by a default."""
    if chosen not in _EXPORTERS:
        raise SettingsError(f"{_EXPORTER}={chosen}: give one of {', '.join(_EXPORTERS)}")
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _PROTOCOL)
    if chosen == "otlp" and protocol != _PROTOCOL:
        name = next(name for name in _PROTOCOLS if environment.get(name))
        raise SettingsError(f"{name}={protocol}: traces are sent as {_PROTOCOL} only, to a collector's port 4318")
    sampler = environment.get(_SAMPLER, "").strip().lower()
    if sampler and sampler not in _SAMPLERS:
        raise SettingsError(f"{_SAMPLER}={sampler}: give one of {', '.join(_SAMPLERS)}")
    share = environment.get(_SAMPLER_ARGUMENT, "")
    if sampler.endswith("traceidratio") and share and not _is_share(share):
        raise SettingsError(f"{_SAMPLER_ARGUMENT}={share}: give a share of traces from 0 to 1, as 0.01")


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False
