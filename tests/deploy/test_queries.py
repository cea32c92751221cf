"""A real Prometheus reads a real queue under load: every panel and every rule has data."""

import re
import time
from collections.abc import Iterator, Mapping

import pytest

from tests.deploy.prometheus import Series
from tests.deploy.queries import RULES, PanelQuery, panel_queries, uncompared
from tests.deploy.system import System, running_system

WAIT_S = 60.0
PANELS = [*panel_queries()]
#: nothing loses a worker or a lease here, and what lasts for less than a scrape may not be seen
MAY_BE_ZERO = {
    "Queue-Inbox-A",
    "Queue-Overdue_leases_and_delays-A",
    "Slots_and_cards-Processes_that_decode_images-A",
    "Errors-Retries_and_redeliveries-B",
    "Errors-Retries_and_redeliveries-C",
}
#: without a card there is no data; test_dashboard.py compares them with the declared metrics
CARDLESS = [query for query in PANELS if not query.needs_a_card]
NEED_A_CARD = [query for query in PANELS if query.needs_a_card]
COMPARED_RULES = {rule["alert"]: uncompared(rule["expr"]) for rule in RULES if rule["alert"] != "VqaGpuLost"}

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(tmp_path_factory.mktemp("system"), interval="500ms") as system:
        yield system


@pytest.fixture(scope="module")
def results(system: System) -> Mapping[str, list[Series]]:
    """What the queries find, by query: after so much load that all find data, or after a minute.

    A panel's is data if there is another number than 0: a query for what is never counted finds zeros.
    """
    panels = {query.expr: query.id in MAY_BE_ZERO for query in CARDLESS}
    wanted = panels | dict.fromkeys(COMPARED_RULES.values(), True)
    found: dict[str, list[Series]] = {}
    start, until = time.time(), time.monotonic() + WAIT_S
    while wanted.keys() - found.keys() and time.monotonic() < until:
        system.load()
        for expr in wanted.keys() - found.keys():
            data = [each for each in system.prometheus.query_range(expr, start, time.time(), 0.5) if each.is_number]
            if data and (wanted[expr] or any(each.is_more for each in data)):
                found[expr] = data
    return found


@pytest.mark.parametrize("query", CARDLESS, ids=lambda query: query.id)
def test_a_panel_has_data(query: PanelQuery, results: Mapping[str, list[Series]]) -> None:
    assert query.expr in results
    legends = {*re.findall(r"\{\{(\w+)\}\}", query.legend)}
    for series in results[query.expr]:
        assert legends <= {*series.labels}


@pytest.mark.parametrize("query", NEED_A_CARD, ids=lambda query: query.id)
def test_a_panel_about_cards_is_a_query(query: PanelQuery, system: System) -> None:
    assert system.prometheus.query(query.expr) == []


@pytest.mark.parametrize("alert", COMPARED_RULES)
def test_a_rule_has_data(alert: str, results: Mapping[str, list[Series]]) -> None:
    assert COMPARED_RULES[alert] in results


def test_prometheus_evaluates_every_rule(system: System) -> None:
    [group] = system.prometheus.get("rules")["groups"]
    assert [(rule["name"], rule["health"]) for rule in group["rules"]] == [(rule["alert"], "ok") for rule in RULES]


@pytest.mark.usefixtures("results")
def test_dead_letters_fire_with_their_runbook(system: System) -> None:
    alert = _wait_for(system, "VqaDeadLettersGrow")
    assert alert["state"] == "firing"
    assert "vqa dlq list" in alert["annotations"]["runbook"]


@pytest.mark.usefixtures("results")
def test_a_gateway_that_ends_is_seen(system: System) -> None:
    system.gateway.stop()
    alert = _wait_for(system, "VqaMetricsDown")
    assert alert["labels"]["job"] == "vqa-queue"
    assert alert["annotations"]["summary"].startswith(f"vqa-queue {system.gateway.url.removeprefix('http://')}: ")


def _wait_for(system: System, name: str) -> dict[str, object]:
    until = time.monotonic() + WAIT_S
    while True:
        found = [alert for alert in system.prometheus.get("alerts")["alerts"] if alert["labels"]["alertname"] == name]
        if found:
            return found[0]
        assert time.monotonic() < until, system.prometheus.get("alerts")
        time.sleep(0.1)
