"""Samples of declared metrics, for collectors that read their values at scrape time."""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from vqa.metrics.declared import BUILD, Metric

Family = CounterMetricFamily | GaugeMetricFamily


def family(metric: Metric, value: float | None = None) -> Family:
    """Return a counter or gauge without samples, or with one if it has no labels."""
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(metric.name, metric.help, value=value, labels=None if value is not None else metric.labels)


def build_info() -> Family:
    """Return the metric that names the installed version."""
    found = family(BUILD)
    found.add_metric([version("vqa-queue")], 1)
    return found
