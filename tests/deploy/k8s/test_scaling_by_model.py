"""KEDA's queries by model: each Deployment is scaled by the jobs of its own models, and all jobs count once."""

import copy
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from producer import Client, Job
from tests.deploy.k8s.manifests import OBJECTS
from tests.deploy.k8s.queries import evaluate, exported
from vqa.ledger.ledger import Ledger
from vqa.metrics import declared
from vqa.settings import QueueSettings

#: by Deployment
SCALED: dict[str, dict[str, Any]] = {
    OBJECTS[name]["spec"]["scaleTargetRef"]["name"]: OBJECTS[name]["spec"]
    for name in ("ScaledObject-worker-chat", "ScaledObject-worker-small")
}


def query(deployment: str, trigger: str) -> str:
    [found] = [each for each in SCALED[deployment]["triggers"] if each["name"] == trigger]
    return str(found["metadata"]["query"])


def without_queries(spec: dict[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(spec)
    del found["scaleTargetRef"]
    for trigger in found["triggers"]:
        del trigger["metadata"]["query"]
    return found


@pytest.fixture
def served(redis: Redis, queue_settings: QueueSettings) -> QueueSettings:
    """A queue on which workers serve `chat` and `small`, without jobs."""
    Ledger(redis).renew("w", [], 9, {"slots": 1}, ["chat", "small"])
    return queue_settings


@pytest.fixture
def busy(served: QueueSettings, redis: Redis) -> QueueSettings:
    """3 jobs that wait for `chat`, 5 for `small`, 7 for any, and 2 entries of the inbox."""
    asked = {"chat": 3, "small": 5, None: 7}
    with Client(served) as client:
        for model, count in asked.items():
            messages = [{"role": "user", "content": "What?"}]
            client.submit_many([Job(messages=messages, model=model) for _ in range(count)])
    for _ in range(2):
        redis.xadd("vqa:inbox", {"job": "{}"})
    return served


def test_a_deployment_counts_the_jobs_of_its_models_alone(busy: QueueSettings, tmp_path: Path) -> None:
    samples = exported(busy)
    for deployment, count in {"worker": 3 + 7 + 2, "worker-small": 5}.items():
        done = evaluate(tmp_path, samples, query(deployment, "open-jobs"), count)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_model_that_waits_scales_its_own_workers(busy: QueueSettings, redis: Redis, tmp_path: Path) -> None:
    seconds, _ = redis.time()
    for id in redis.zrange("vqa:queued:interactive.small", 0, -1):
        redis.zadd("vqa:queued:interactive.small", {id: (seconds - 300) * 1000})
    samples = exported(busy)
    ages: dict[str, float] = {}
    for name, labels, value in samples:
        if name == declared.QUEUE_OLDEST_S.name and labels["lane"] == "interactive":
            ages[labels["model"]] = max(value, ages.get(labels["model"], 0.0))
    assert ages["small"] > 290 > max(ages["chat"], ages[""])
    for deployment, age_s in {"worker": max(ages["chat"], ages[""]), "worker-small": ages["small"]}.items():
        done = evaluate(tmp_path, samples, query(deployment, "oldest-interactive"), age_s)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("trigger", ["open-jobs", "oldest-interactive"])
@pytest.mark.parametrize("deployment", SCALED)
def test_an_idle_model_has_a_value_and_a_lost_redis_none(
    deployment: str, trigger: str, served: QueueSettings, tmp_path: Path
) -> None:
    idle = evaluate(tmp_path, exported(served), query(deployment, trigger), 0)
    assert idle.returncode == 0, idle.stdout + idle.stderr
    lost = exported(QueueSettings(redis_url="redis://127.0.0.1:1/0"))
    nothing = evaluate(tmp_path, lost, query(deployment, trigger), None)
    assert nothing.returncode == 0, nothing.stdout + nothing.stderr


@pytest.mark.parametrize("deployment", SCALED)
def test_all_else_is_as_for_one_model(deployment: str) -> None:
    assert without_queries(SCALED[deployment]) == without_queries(OBJECTS["ScaledObject-worker"]["spec"])
