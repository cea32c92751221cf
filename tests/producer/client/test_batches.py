"""Batches that are submitted whole, with real workers that echo: counted, collected by others, cancelled, expired."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from producer import Answer, Batch, Client, InvalidJob, Job, QueueFull, UnknownBatch
from tests.worker_process import StartWorker
from vqa.ledger.commands import entry_key
from vqa.settings import QueueSettings

WAIT_S = 60.0


@pytest.fixture
def client(queue_settings: QueueSettings) -> Iterator[Client]:
    with Client(queue_settings) as made:
        yield made


def rows(count: int) -> Iterator[dict[str, object]]:
    for number in range(count):
        yield {"id": f"row-{number}", "messages": [{"role": "user", "content": f"question {number}"}]}


def test_a_batch_goes_on_without_its_client_and_another_one_reads_it(
    client: Client, queue_settings: QueueSettings, start_worker: StartWorker
) -> None:
    with Client(queue_settings) as first:
        id = first.batches.create(rows(300), input="numbers", tenant="lab").id
        assert first.batches.retrieve(id).state().status == "in_progress"
    start_worker()

    results = list(client.batches.retrieve(id).results(WAIT_S))

    assert sorted(result.custom_id for result in results) == sorted(f"row-{number}" for number in range(300))
    # the echo engine's answer names what was asked
    assert len({result.record()["text"] for result in results}) == 300
    state = client.batches.retrieve(id).wait(WAIT_S)
    assert (state.status, state.total, state.done, state.failed, state.left) == ("completed", 300, 300, 0, 0)
    assert sum(state.workers.values()) == 300
    assert [each.id for each in client.batches.list()] == [id]


def test_a_job_keeps_its_own_terms_within_the_batchs(client: Client) -> None:
    def job(id: str, **terms: object) -> Job:
        return Job(id=id, messages=[{"role": "user", "content": "?"}], **terms)

    own = [job("short", timeout_s=5, max_new_tokens=3), job("long", timeout_s=500), job("none")]
    batch = client.batches.create([*own, {**next(rows(1)), "timeout_s": "600"}], within_s=100, max_new_tokens=9)

    sent = {name: _sent(client, id) for id, name in batch.rows(0)}
    assert {name: job.max_new_tokens for name, job in sent.items()} == {"short": 3, "long": 9, "none": 9, "row-0": 9}
    assert sent["short"].timeout_s == 5
    assert all(90 < (sent[name].timeout_s or 0) <= 100 for name in ("long", "none", "row-0"))
    assert {job.batch for job in sent.values()} == {batch.id}


def _sent(client: Client, id: str) -> Job:
    entry = client._queue.redis.get(entry_key(id))
    assert isinstance(entry, bytes)
    return Job.from_json(entry.partition(b"\n")[2])


def test_what_all_rows_share_is_checked_with_a_job_too(client: Client) -> None:
    with pytest.raises(InvalidJob, match="temperature"):
        client.batches.create([Job(id="x", messages=[{"role": "user", "content": "?"}])], temperature=7)


def test_a_batch_that_does_not_fit_the_queue_leaves_nothing_there(queue_settings: QueueSettings) -> None:
    with Client(queue_settings, queue_most=700) as client:
        with pytest.raises(QueueFull, match="VQA_QUEUE_MOST"):
            client.batches.create(rows(1500))

        assert sum(client.counts()["bulk"].values()) == 0
        assert [state.status for state in client.batches.list()] == ["failed"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"id": "row-1", "messages": [{"role": "user", "content": "again"}]}, "same id"),
        ({"messages": [{"role": "user", "content": "nameless"}]}, "id: missing"),
        ({"id": "x", "question": "Of what?"}, "image: missing"),
        ({"id": "x", "messages": [], "colour": "red"}, "colour"),
    ],
)
def test_a_bad_row_is_refused_and_the_batch_with_it(client: Client, bad: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidJob, match=reason):
        client.batches.create([*rows(3), bad])

    assert sum(client.counts()["bulk"].values()) == 0


def test_a_cancelled_batch_ends_with_all_its_rows(client: Client, start_worker: StartWorker) -> None:
    start_worker(VQA_SLOTS="2", VQA_ECHO_DELAY_S="0.2")
    batch = client.batches.create(rows(500))

    ended = batch.cancel()

    state = batch.wait(WAIT_S)
    assert state.status == "cancelled"
    assert ended >= 400
    assert state.codes["cancelled"] == ended
    assert state.done == 500
    outcomes = [result.outcome for result in batch.results(WAIT_S)]
    assert sum(isinstance(outcome, Answer) for outcome in outcomes) == 500 - ended


def test_rows_that_are_open_when_the_batch_ends_have_expired(client: Client, start_worker: StartWorker) -> None:
    batch = client.batches.create(rows(20), within_s=1.0)
    start_worker(VQA_ECHO_DELAY_S="5")

    state = batch.wait(WAIT_S)

    assert state.status == "expired"
    assert state.codes == {"batch_expired": 20}


def test_a_batch_that_nobody_knows_is_named(client: Client) -> None:
    with pytest.raises(UnknownBatch, match="batch_nothing"):
        Batch.state(client.batches.retrieve("batch_nothing"))


def test_batches_are_forgotten_some_time_after_their_end(
    queue_settings: QueueSettings, start_worker: StartWorker, redis: Redis
) -> None:
    start_worker()
    with Client(queue_settings, batch_ttl_s=60) as client:
        batch = client.batches.create(rows(3))
        assert batch.wait(WAIT_S).status == "completed"

    assert all(0 < redis.pttl(key) <= 60_000 for key in redis.scan_iter("vqa:batch:*"))
