"""promtool accepts the rules, they fire when they should, and say what to do."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.prometheus import FOLDER, promtool
from tests.deploy.queries import RULES
from tests.test_docs import anchors
from tests.worker_process import ROOT
from vqa.errors import VQAError

CASES = Path(__file__).parent / "rules.test.yml"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("check", "config", FOLDER / "prometheus.yml"), id="config"),
        pytest.param(("check", "rules", FOLDER / "rules.yml"), id="rules"),
        pytest.param(("test", "rules", CASES), id="cases"),
    ],
)
def test_promtool_agrees(arguments: tuple[object, ...]) -> None:
    promtool(*arguments)


@pytest.mark.parametrize(
    ("alert", "model", "summary"),
    [
        pytest.param(
            "VqaOldestJobWaits", "small", "interactive job of model small has waited for 10h 0m 0s", id="interactive"
        ),
        pytest.param("VqaOldestJobWaits", "", "interactive job has waited for 10h 0m 0s", id="interactive-unnamed"),
        pytest.param("VqaBulkWaits", "small", "bulk job of model small has waited for 10h 0m 0s", id="bulk"),
        pytest.param("VqaBulkWaits", "", "bulk job has waited for 10h 0m 0s", id="bulk-unnamed"),
    ],
)
def test_the_summary_of_jobs_that_wait_names_their_model(alert: str, model: str, summary: str, tmp_path: Path) -> None:
    [rule] = [each for each in RULES if each["alert"] == alert]
    lane = "bulk" if alert == "VqaBulkWaits" else "interactive"
    about = {"lane": lane} | ({"model": model} if model else {})
    case = {
        "interval": "1m",
        "input_series": [
            {
                "series": f'vqa_queue_oldest_seconds{{lane="{lane}", model="{model}", state="queued"}}',
                "values": "36000x30",
            }
        ],
        "alert_rule_test": [
            {
                "alertname": alert,
                "eval_time": "20m",
                "exp_alerts": [
                    {
                        "exp_labels": about | rule["labels"],
                        "exp_annotations": rule["annotations"] | {"summary": f"The oldest {summary}"},
                    }
                ],
            }
        ],
    }
    path = tmp_path / "case.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "rules.yml")], "tests": [case]}))
    promtool("test", "rules", path)


def looks() -> Iterator[dict[str, Any]]:
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        yield from case["promql_expr_test"]


@pytest.mark.parametrize("alert", [rule["alert"] for rule in RULES])
def test_there_is_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    # alerts of one prefix are looked at together
    own = [look for look in looks() if re.search(rf'"({alert}|{alert[:8]}\.\*)"', look["expr"])]
    assert any(alert in str(look) for look in own if look["exp_samples"])
    assert any(not look["exp_samples"] for look in own)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"]
    links = re.findall(r"\b(docs/[\w-]+\.md)(?:#([\w-]+))?", rule["annotations"]["runbook"])
    assert links
    for path, anchor in links:
        assert not anchor or anchor in anchors(ROOT / path)


def test_codes_of_errors_that_do_not_count_are_those_of_the_errors() -> None:
    [codes] = [found for rule in RULES for found in re.findall(r'code!~"([^"]+)"', rule["expr"])]
    assert {*codes.split("|")} <= {error.code() for error in with_subclasses(VQAError)}


def with_subclasses(error: type[VQAError]) -> Iterator[type[VQAError]]:
    yield error
    for each in error.__subclasses__():
        yield from with_subclasses(each)


def test_the_document_lists_every_alert() -> None:
    listed = re.findall(r"^\| `(Vqa\w+)` \|", (ROOT / "docs" / "dashboard.md").read_text(), re.MULTILINE)
    assert listed == [rule["alert"] for rule in RULES]
