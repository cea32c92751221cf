"""What happened to a job is told from its entry, and from its outcome when it is closed."""

import json
import time

from celery import Celery
from hypothesis import example, given
from hypothesis import strategies as st
from redis import Redis

from producer import Client
from producer.cli import show_timeline
from producer.client.states import JobState
from producer.client.timeline import Timeline, parse_timeline
from tests.producer.conftest import MakeJob, answer
from vqa.celery import make_app
from vqa.errors import DeadlineExceeded, JobGivenUp
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending, Lease
from vqa.results import Outcome, encode
from vqa.settings import QueueSettings

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def take(ledger: Ledger, id: str, worker: str) -> Lease:
    lease = ledger.take(id, worker, f"token-of-{worker}-0000", lease_s=9)
    assert isinstance(lease, Lease), lease
    return lease


def close(app: Celery, ledger: Ledger, lease: Lease, outcome: Outcome) -> None:
    header = lease.header
    encoded = encode(app.backend, lease.id, outcome, header.attempt, trace=header.trace, times=header.times())
    assert ledger.close(Ending(lease.id, lease.token, encoded, ttl_s=60))


def header(name: str, value: object) -> bytes:
    """An entry, damaged."""
    fields = {"state": "leased", "lane": "bulk", "accepted": 1, "deadline": 2, "attempt": 0, "lost": 0}
    return json.dumps(fields | {name: value}).encode() + b"\n"


def what(timeline: Timeline) -> list[str]:
    return [event.what for event in timeline.events]


def test_an_open_job_and_a_closed_one_tell_the_same_past(
    client: Client, redis: Redis, app: Celery, question: MakeJob
) -> None:
    ledger, job = Ledger(redis), question()
    client.submit(job, trace=TRACE)
    assert what(client.timeline(job.id)) == ["accepted on interactive"]
    first = take(ledger, job.id, "one@here")
    assert what(client.timeline(job.id))[-1] == "attempt 1 on one@here"
    assert ledger.retry(job.id, first.token, error="EngineError: why")
    past = ["accepted on interactive", "attempt 1 on one@here", "attempt 1 ended: EngineError: why"]
    assert what(client.timeline(job.id)) == past
    lease = take(ledger, job.id, "two@here")
    assert what(client.timeline(job.id)) == [*past, "attempt 2 on two@here"]

    close(app, ledger, lease, answer(job.id, "a cat").model_copy(update={"attempt": 2}))
    timeline = client.timeline(job.id)
    answered = "answered (stop): 3 tokens of prompt, 2 of answer"
    assert what(timeline) == [*past, "attempt 2 on two@here", answered]
    assert [event.at for event in timeline.events] == sorted(event.at for event in timeline.events)
    assert timeline.trace_id == TRACE.split("-")[1]
    assert timeline.stages is not None
    assert timeline.stages["media_s"] == 0.1

    text = show_timeline.job(client.states([job.id])[job.id], timeline, as_json=False)
    assert answered in text
    assert "media 0.100 s" in text
    assert f"trace: {timeline.trace_id}" in text
    told = json.loads(show_timeline.job(client.states([job.id])[job.id], timeline, as_json=True))
    assert (told["state"], told["timeline"]["trace_id"]) == ("answered", timeline.trace_id)


def test_a_job_that_was_never_taken_and_one_that_nobody_knows(
    client: Client, redis: Redis, app: Celery, question: MakeJob
) -> None:
    job = question()
    client.submit(job)
    assert client.cancel(job.id)
    accepted, closed = what(client.timeline(job.id))
    assert (accepted, closed.partition(": ")[2]) == (
        "accepted on interactive",
        "Cancelled: the job was cancelled by a producer",
    )
    unknown = client.timeline("nobody-knows-it")
    assert unknown == Timeline("nobody-knows-it")
    assert "unknown" in show_timeline.job(JobState(unknown.id, "unknown"), unknown, as_json=False)


def test_how_a_webhook_stands_is_told_without_where_it_goes(client: Client, redis: Redis) -> None:
    redis.hset(
        "vqa:webhook:job", mapping={"url": "https://secret", "secret": "s", "attempt": "2", "state": "delivered"}
    )
    assert client.timeline("job").webhook == "delivered, 2 attempts"


def test_outcomes_of_earlier_releases_tell_their_end(client: Client, redis: Redis, app: Celery) -> None:
    redis.set("celery-task-meta-old", encode(app.backend, "old", DeadlineExceeded("late")))
    assert what(client.timeline("old")) == ["closed: DeadlineExceeded: late"]


def test_a_dead_letter_that_was_sent_again_tells_what_happened_in_order(
    client: Client, redis: Redis, app: Celery, question: MakeJob
) -> None:
    ledger, job = Ledger(redis), question()
    client.submit(job)
    lease = take(ledger, job.id, "one@here")
    error = JobGivenUp("why")
    assert ledger.close(Ending(job.id, lease.token, encode(app.backend, job.id, error), 60, reason="why", error="e"))
    time.sleep(0.01)
    client.dead_letters.retry([job.id])
    expected = ["attempt 1 on one@here", "attempt 1 ended: e", "accepted on interactive"]
    assert what(client.timeline(job.id)) == expected
    take(ledger, job.id, "two@here")
    assert what(client.timeline(job.id)) == [*expected, "attempt 1 on two@here"]


@given(st.lists(st.none() | st.binary(), min_size=3, max_size=3))
@example([header("trace", [1]), None, None])
@example([header("taken", "x"), None, None])
@example([None, b'{"status": "FAILURE", "result": {}}', header("taken", float("inf"))])
@example([None, b"[" * 100_000, None])
@example([b'{"state": "queued", "lane": "bulk", "accepted": 1e300}\n', None, None])
@example([None, b'{"status": "SUCCESS", "result": {}, "times": {"accepted": 1e300, "attempts": [1]}}', None])
def test_nothing_that_is_damaged_raises(keys: list[bytes | None]) -> None:
    with make_app(QueueSettings()) as app:
        timeline = parse_timeline(app.backend, "job", [*keys, [b"1", b"\xff"]])
        assert "job" in show_timeline.job(JobState("job", "unknown"), timeline, as_json=False)


def test_an_end_without_a_time_zone_is_in_utc(client: Client, redis: Redis, app: Celery) -> None:
    outcome = json.loads(encode(app.backend, "job", DeadlineExceeded("late"), times={"accepted": 1, "lane": "bulk"}))
    outcome["date_done"] = "2026-01-02T03:04:05"
    redis.set("celery-task-meta-job", json.dumps(outcome))
    text = show_timeline.job(JobState("job", "failed"), client.timeline("job"), as_json=False)
    assert "2026-01-02 03:04:05.000" in text
