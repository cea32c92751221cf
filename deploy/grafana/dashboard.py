"""Builds the dashboard of deploy/grafana/rows.py with Grafana's own SDK."""

from __future__ import annotations

from itertools import count

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, Threshold, ThresholdsMode, VariableOption

from deploy.grafana.panels import Panel
from deploy.grafana.rows import ROWS
from vqa.jobs.lane import LANES

#: of the address in Grafana: /d/vqa
UID = "vqa"

#: of a card's hour, where nothing else is typed in
PRICE = "2.50"

#: heights in Grafana's unit of 30 pixels
_GRAPH, _NUMBER = 8, 4

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def dashboard_json() -> str:
    """Return the dashboard as Grafana's provisioning reads it, with a newline at the end."""
    built = (
        dashboard.Dashboard("vqa-queue")
        .uid(UID)
        .description("Made by `python -m deploy.grafana`: change deploy/grafana/rows.py, not this file")
        .tags(["vqa"])
        .editable()
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.CustomVariable("lane")
            .label("Lane")
            .values(",".join(LANES))
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(VariableOption(selected=True, text="All", value="$__all"))
        )
        .with_variable(
            dashboard.TextBoxVariable("price")
            .label("Price of a card's hour")
            .default_value(PRICE)
            .current(VariableOption(selected=True, text=PRICE, value=PRICE))
            .options([VariableOption(selected=True, text=PRICE, value=PRICE)])
        )
    )
    ids = count(1)
    for row in ROWS:
        built = built.with_row(dashboard.Row(row.title).id(next(ids)))
        for panel in row.panels:
            made = _number(panel) if panel.number else _graph(panel)
            built = built.with_panel(made.id(next(ids)))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def _queries(panel: Panel) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().expr(query.expr).legend_format(query.legend or "__auto").ref_id(chr(ord("A") + number))
        for number, query in enumerate(panel.queries)
    ]


def _number(panel: Panel) -> stat.Panel:
    built = (
        stat.Panel()
        .title(panel.title)
        .description(panel.help)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .span(panel.span)
        .height(_NUMBER)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(BigValueGraphMode.AREA)
        .color_mode(BigValueColorMode.VALUE)
        .thresholds(_thresholds(panel))
    )
    for query in _queries(panel):
        built = built.with_target(query)
    return built


def _graph(panel: Panel) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.help)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .span(panel.span)
        .height(_GRAPH)
        .min(0)
        .line_width(1)
        .fill_opacity(40 if panel.stacked else 10)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if panel.most is not None:
        built = built.max(panel.most)
    if panel.stacked:
        built = built.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for query in _queries(panel):
        built = built.with_target(query)
    return built


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    # Grafana's first step has no value
    steps = [Threshold(None if number == 0 else value, color) for number, (value, color) in enumerate(panel.thresholds)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps or [Threshold(None, "text")])
