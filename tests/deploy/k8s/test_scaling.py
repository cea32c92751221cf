"""KEDA's queries, evaluated by promtool on what `vqa metrics` shows of a real queue."""

import re
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from producer import Client, Job
from tests.deploy.k8s.manifests import OBJECTS, PODS, container
from tests.deploy.k8s.queries import evaluate, exported
from vqa.metrics import declared
from vqa.settings import QueueSettings

SPEC = OBJECTS["ScaledObject-worker"]["spec"]
TRIGGERS: dict[str, dict[str, Any]] = {each["name"]: each for each in SPEC["triggers"]}
NAMES = {metric.name for metric in declared.QUEUE}


@pytest.fixture
def busy(redis: Redis, queue_settings: QueueSettings) -> QueueSettings:
    """40 jobs that no worker takes, and one in the inbox."""
    jobs = [Job(messages=[{"role": "user", "content": "What?"}], lane="bulk") for _ in range(30)]
    jobs += [Job(messages=[{"role": "user", "content": "What?"}]) for _ in range(10)]
    with Client(queue_settings) as client:
        client.submit_many(jobs)
    redis.xadd("vqa:inbox", {"job": "{}"})
    return queue_settings


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_query_names_declared_metrics(trigger: str) -> None:
    named = {*re.findall(r"\bvqa_\w+", TRIGGERS[trigger]["metadata"]["query"])}
    assert named
    assert named <= NAMES


def test_depth_is_every_open_job(busy: QueueSettings, tmp_path: Path) -> None:
    query = TRIGGERS["open-jobs"]["metadata"]["query"]
    done = evaluate(tmp_path, exported(busy), query, 41)
    assert done.returncode == 0, done.stdout + done.stderr
    assert evaluate(tmp_path, exported(busy), query, 40).returncode != 0


def test_age_is_that_of_the_oldest_interactive_job(busy: QueueSettings, tmp_path: Path) -> None:
    samples = exported(busy)
    ages = [
        value
        for name, labels, value in samples
        if name == declared.QUEUE_OLDEST_S.name and labels["lane"] == "interactive"
    ]
    assert max(ages) > 0
    done = evaluate(tmp_path, samples, TRIGGERS["oldest-interactive"]["metadata"]["query"], max(ages))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_an_idle_queue_has_a_value_and_a_lost_redis_none(
    trigger: str, queue_settings: QueueSettings, tmp_path: Path
) -> None:
    metadata = TRIGGERS[trigger]["metadata"]
    idle = evaluate(tmp_path, exported(queue_settings), metadata["query"], 0)
    assert idle.returncode == 0, idle.stdout + idle.stderr
    lost = exported(QueueSettings(redis_url="redis://127.0.0.1:1/0"))
    assert ("vqa_up", {}, 0.0) in lost
    nothing = evaluate(tmp_path, lost, metadata["query"], None)
    assert nothing.returncode == 0, nothing.stdout + nothing.stderr
    # so that KEDA keeps the workers, where 0 would end them
    assert metadata["ignoreNullValues"] == "false"


def test_workers_leave_one_by_one_each_after_the_one_before_has_drained() -> None:
    behavior = SPEC["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    [policy] = behavior["policies"]
    assert (policy["type"], policy["value"]) == ("Pods", 1)
    assert policy["periodSeconds"] >= PODS["Deployment-worker"]["spec"]["terminationGracePeriodSeconds"]
    assert behavior["stabilizationWindowSeconds"] >= 300
    assert SPEC["minReplicaCount"] >= 1


def test_keda_scales_the_workers() -> None:
    assert SPEC["scaleTargetRef"]["name"] == OBJECTS["Deployment-worker"]["metadata"]["name"]
    assert container("Deployment-worker")["name"] == "worker"
