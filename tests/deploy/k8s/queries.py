"""PromQL of the manifests, evaluated by promtool on what a scrape of a real queue finds."""

import json
import subprocess
from pathlib import Path

import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from producer.metrics.collector import queue_registry
from tests.deploy.prometheus import PROMTOOL
from vqa.settings import QueueSettings


def exported(settings: QueueSettings) -> list[tuple[str, dict[str, str], float]]:
    """Return name, labels and value of each sample that a scrape finds."""
    page = generate_latest(queue_registry(settings)).decode()
    families = text_string_to_metric_families(page)
    return [(each.name, each.labels, each.value) for family in families for each in family.samples]


def series(name: str, labels: dict[str, str]) -> str:
    # with what Prometheus adds by the pod monitor
    labels = labels | {"job": "vqa-queue", "instance": "metrics-0"}
    return f"{name}{{{', '.join(f'{label}={json.dumps(value)}' for label, value in labels.items())}}}"


def evaluate(
    folder: Path, samples: list[tuple[str, dict[str, str], float]], expr: str, value: float | None
) -> subprocess.CompletedProcess[str]:
    """Let promtool compare what a query finds with one value, or with nothing."""
    inputs = [{"series": series(name, labels), "values": f"{number!r}x2"} for name, labels, number in samples]
    wanted = [] if value is None else [{"labels": "{}", "value": value}]
    look = {"expr": expr, "eval_time": "1m", "exp_samples": wanted}
    case = {"interval": "1m", "input_series": inputs, "promql_expr_test": [look]}
    path = folder / "case.yml"
    path.write_text(yaml.safe_dump({"rule_files": [], "tests": [case]}))
    command = [PROMTOOL, "test", "rules", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
