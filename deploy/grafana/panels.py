"""What a panel of the dashboard is, and how often-used queries are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vqa.metrics.declared import Metric

#: Grafana's names of units
Unit = Literal["short", "s", "bytes", "percentunit", "reqps", "cps", "watt", "celsius"]

#: Grafana's: at least four scrapes, and no less than a point of the graph
WINDOW = "$__rate_interval"

#: the lanes that are chosen above the panels
LANE = 'lane=~"$lane"'


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and the name of its series: text in which `{{label}}` stands for a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph of series over time, or one number that also shows its last value; `span` is in 24ths of the width."""

    title: str
    queries: tuple[Query, ...]
    unit: Unit = "short"
    help: str = ""
    span: int = 8
    number: bool = False
    #: areas on top of each other
    stacked: bool = False
    #: of the axis
    most: float | None = None
    #: (from, colour) in rising order; the first from is not used
    thresholds: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def rate(metric: Metric, labels: str = "", by: str = "", window: str = WINDOW) -> str:
    """Return the PromQL of a counter's increase a second, summed over workers."""
    summed = f"sum by ({by})" if by else "sum"
    return (
        f"{summed} (rate({metric.name}{{{labels}}}[{window}]))"
        if labels
        else (f"{summed} (rate({metric.name}[{window}]))")
    )


def quantile(share: float, metric: Metric, by: str = "") -> str:
    """Return the PromQL of a histogram's quantile, of the chosen lanes, over all workers."""
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({grouped}) (rate({metric.name}_bucket{{{LANE}}}[{WINDOW}])))"


def newest(metric: Metric, labels: str = "", by: str = "") -> str:
    """Return the PromQL of a figure of the queue, which every `vqa metrics` and gateway shows alike."""
    grouped = f"max by ({by})" if by else "max"
    return f"{grouped} ({metric.name}{{{labels}}})" if labels else f"{grouped} ({metric.name})"


def by_model(expr: str) -> str:
    """Return the PromQL with a name in the empty label of jobs that name no model."""
    return f'label_replace({expr}, "model", "(none named)", "model", "")'


def share(part: str, whole: str) -> str:
    return f"{part} / {whole}"
