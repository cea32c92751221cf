"""Rows of a batch that name a model which is gone by the time they are sent."""

from collections import Counter
from collections.abc import Iterator

import pytest
from redis import Redis

from producer.client.job_queue import JobQueue
from producer.client.submission import PreparedJob
from producer.gateway.batches.record import BatchRecord
from producer.gateway.batches.rows import BatchRow
from producer.gateway.batches.submitter import Submitter
from tests.producer.conftest import MakeJob
from vqa.ledger.ledger import Ledger
from vqa.settings import QueueSettings


@pytest.fixture
def queue(queue_settings: QueueSettings) -> Iterator[JobQueue]:
    queue = JobQueue(queue_settings)
    yield queue
    queue.close()


def test_a_row_whose_model_is_gone_fails_alone(redis: Redis, queue: JobQueue, question: MakeJob) -> None:
    Ledger(redis).renew("worker", [], 9, {}, ["chat"], declared=True)
    record = BatchRecord("batch_1", "/v1/chat/completions", "file", "in.jsonl", "24h", 86400, 0, 86400)
    submitter = Submitter(queue, record)
    # the models were named when the rows were offered before, and the queue was full
    models = {"a": "chat", "b": "gone", "c": None}
    rows = [BatchRow(id, id, PreparedJob(question(id=id, model=model))) for id, model in models.items()]
    assert submitter.submit(rows)[0] == []
    assert submitter.bad == Counter(model_not_found=1)
    assert {id for id in models if redis.exists(f"vqa:job:{id}")} == {"a", "c"}
    assert redis.exists("celery-task-meta-b")
