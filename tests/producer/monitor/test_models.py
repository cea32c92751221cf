"""What `vqa doctor` says of models whose jobs no worker takes."""

from redis import Redis

from producer import Client
from producer.monitor.checks import Finding
from producer.monitor.models import model_findings
from tests.producer.conftest import MakeJob
from vqa.ledger.ledger import Ledger
from vqa.settings import QueueSettings


def serve(redis: Redis, *models: str, **about: object) -> None:
    Ledger(redis).renew("worker", [], 30, {"slots": 4, "models": list(models), **about}, models, declared=True)


def test_nothing_is_said_of_models_before_there_is_one(redis: Redis, queue_settings: QueueSettings) -> None:
    assert list(model_findings(redis, queue_settings)) == []


def test_jobs_that_wait_for_a_model_without_a_worker_are_wrong(
    redis: Redis, queue_settings: QueueSettings, client: Client, question: MakeJob
) -> None:
    serve(redis, "chat", "other")
    client.submit_many(question(model=model) for model in ("chat", "chat", "other"))
    serve(redis, "other")
    first, second = model_findings(redis, queue_settings)
    assert (first.level, first.said) == ("wrong", "model chat: no worker is up that takes its 2 open jobs")
    assert first.advice == "start a worker with VQA_SERVED_NAME=chat"
    assert second == Finding("model", "ok", "other: 1 open jobs")


def test_jobs_that_nobody_takes_because_they_name_no_model_are_told(
    redis: Redis, queue_settings: QueueSettings, client: Client, question: MakeJob
) -> None:
    serve(redis, "chat", takes_unnamed=False)
    # another app's
    redis.lpush("bulk", "{}")
    [note, _] = model_findings(redis, queue_settings)
    assert note.level == "note"
    assert note.said == "no worker is up that takes jobs which name no model; messages on their lists: 1"
    client.submit(question())
    [wrong, _] = model_findings(redis, queue_settings)
    assert (wrong.level, wrong.advice) == ("wrong", note.advice)
    assert wrong.said == "jobs that name no model: no worker is up that takes its 1 open jobs"
