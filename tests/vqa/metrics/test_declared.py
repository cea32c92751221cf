"""What is declared is what docs/metrics.md says, and no label has unbounded values."""

import re
from pathlib import Path

import pytest

from vqa.metrics.declared import LABELS, QUEUE, WORKER, Metric

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"
ALL = [*WORKER, *(metric for metric in QUEUE if metric not in WORKER)]
ROW = re.compile(r"^\| `(vqa_\w+)` \| (\w+) \| (.*?) \| (.+?) \|$", re.MULTILINE)

#: words of what has a value for each job, tenant or address; those of models are bounded by the queue's collector
UNBOUNDED = re.compile(r"tenant|id|job|batch|image|path|url|host|name|key|question|reason|error")


def row(metric: Metric) -> tuple[str, str, str, str]:
    return metric.name, metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help


def test_no_name_is_declared_twice() -> None:
    assert len({metric.name for metric in ALL}) == len(ALL)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_names_are_as_prometheus_wants_them(metric: Metric) -> None:
    assert re.fullmatch(r"vqa(_[a-z0-9]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.help


def test_every_label_is_used_and_its_bound_is_known() -> None:
    assert {label for metric in ALL for label in metric.labels} == {*LABELS}


def test_no_label_grows_with_users_or_jobs() -> None:
    assert [label for label in LABELS if UNBOUNDED.search(label)] == []


def test_the_document_has_the_same_table() -> None:
    worker, queue = re.split(r"^## The queue$", DOCUMENT.read_text(), flags=re.MULTILINE)
    assert ROW.findall(worker) == [row(metric) for metric in WORKER]
    assert ROW.findall(queue) == [row(metric) for metric in QUEUE]


def test_the_document_says_what_bounds_each_label() -> None:
    found = dict(re.findall(r"^- `(\w+)`: (.+)$", DOCUMENT.read_text(), re.MULTILINE))
    assert found == {**LABELS}
