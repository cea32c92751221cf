"""The committed dashboard is the one that its script makes, and asks for what is declared."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy.prometheus import promtool
from tests.deploy.queries import DASHBOARD, RULES, PanelQuery, panel_queries
from tests.worker_process import ROOT
from vqa.metrics.declared import QUEUE, WORKER, Metric

COMMITTED = ROOT / "deploy" / "grafana" / "dashboards" / "vqa.json"
DECLARED = {metric.name: metric for metric in (*WORKER, *QUEUE)}
#: labels that Prometheus adds, and those of its own series
ADDED = {"job", "instance", "le", "alertname", "alertstate"}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [*panel_queries()]

_NAME = re.compile(r"\bvqa_\w+")
_SELECTOR = re.compile(r"\b(vqa_\w+)\{([^}]*)\}")
_GROUPED = re.compile(r"\bby \(([^)]*)\)")


def metric(name: str) -> Metric:
    return DECLARED[re.sub(r"_bucket$", "", name)]


def test_the_script_makes_the_committed_file(tmp_path: Path) -> None:
    made = tmp_path / "vqa.json"
    subprocess.run([sys.executable, "-W", "error", "-m", "deploy.grafana", made], cwd=ROOT, check=True)
    assert made.read_text() == COMMITTED.read_text()


def test_no_id_is_used_twice() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len({*ids}) == len(ids)


def test_no_panel_lies_over_another() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len({*cells}) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_panel_asks_the_chosen_prometheus() -> None:
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}
    assert all(panel["targets"] for panel in PANELS)


EXPRESSIONS = [
    *(pytest.param(query.template, id=query.id) for query in QUERIES),
    *(pytest.param(rule["expr"], id=rule["alert"]) for rule in RULES),
]


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_metrics_and_their_labels_are_declared(expr: str) -> None:
    names = {*_NAME.findall(re.sub(r'"[^"]*"', '""', expr))}
    known = {label for name in names for label in metric(name).labels} | ADDED
    for name, selected in _SELECTOR.findall(expr):
        labels = {*re.findall(r"(\w+) ?(?:=~|!~|!=|=)", selected)}
        assert labels <= {*metric(name).labels, *ADDED}
    for grouped in _GROUPED.findall(expr):
        assert {*grouped.replace(" ", "").split(",")} <= known


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_counters_are_asked_for_their_rate_and_gauges_are_not(expr: str) -> None:
    for name in _NAME.findall(expr):
        rated = re.search(rf"\b(?:rate|increase)\({name}\b", expr) is not None
        assert rated == (metric(name).kind != "gauge")


@pytest.mark.parametrize("query", [each for each in QUERIES if each.needs_a_card], ids=lambda query: query.id)
def test_a_panel_about_cards_has_a_line_for_each_card(query: PanelQuery) -> None:
    # a machine without a card has no data for these, so that their labels are compared with what is declared
    assert {*re.findall(r"\{\{(\w+)\}\}", query.legend)} == {"instance", "card"}
    assert _GROUPED.findall(query.template) == ["instance, card"]


@pytest.mark.parametrize("name", ["lane", "price", "datasource"])
def test_a_variable_is_there_and_used(name: str) -> None:
    assert name in {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert f"${name}" in COMMITTED.read_text() or f"${{{name}}}" in COMMITTED.read_text()


def test_each_card_costs_and_each_worker_without_a_card_as_much(tmp_path: Path) -> None:
    [query] = [query for query in QUERIES if query.panel == "Cost per hour"]
    gpus = [f'vqa_gpu_memory_bytes{{instance="gpu", card="{card}"}}' for card in range(2)]
    series = [*gpus, 'vqa_slots{instance="gpu"}', 'vqa_slots{instance="cpu"}']
    case = {
        "interval": "1m",
        "input_series": [{"series": each, "values": "4x2"} for each in series],
        "promql_expr_test": [
            {"expr": query.expr, "eval_time": "1m", "exp_samples": [{"labels": "{}", "value": 3 * 2.5}]}
        ],
    }
    (tmp_path / "case.yml").write_text(yaml.safe_dump({"rule_files": [], "tests": [case]}))
    promtool("test", "rules", tmp_path / "case.yml")
