"""One round of the inbox's reader after the other, against a real Redis."""

import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from vqa.errors import InvalidJob
from vqa.images.store import ImageStore
from vqa.inbox import GROUP, INBOX, OUTBOX
from vqa.jobs.job import Job
from vqa.jobs.version import VERSION
from vqa.ledger.closing import Closing
from vqa.ledger.commands import dead_key, entry_key, outcome_key
from vqa.ledger.ledger import Ledger
from vqa.ledger.models import ModelRegistry
from vqa.ledger.records import Header
from vqa.redis.error_replies import describe
from vqa.results import decode
from vqa.settings import QueueSettings
from workers.inbox.accept import Acceptance
from workers.inbox.reader import InboxReader
from workers.inbox.stream import InboxStream
from workers.jobs.foreign import ForeignJobs

SECRET = "the-secret-question"
REPLY = "vqa:reply:test"
LEASE_S = 5.0

MakeReader = Callable[..., InboxReader]


@pytest.fixture
def make_reader(redis: Redis, app: Celery, redis_url: str) -> MakeReader:
    def make(name: str = "worker", lease_s: float = LEASE_S, **own: Any) -> InboxReader:
        settings = QueueSettings(redis_url=redis_url, **own)
        closing = Closing(app, Ledger(redis, settings.limits.unbounded), settings.result_ttl_s)
        models = ModelRegistry(redis, settings.model_keep_s, settings.lease_s)
        foreign = ForeignJobs(settings, closing, ImageStore(redis), models)
        stream = InboxStream(redis, name, settings.result_ttl_s)
        stream.create()
        return InboxReader(stream, Acceptance(redis, foreign, 100_000), lease_s, 1.0)

    return make


def drain(reader: InboxReader) -> None:
    for _ in range(5):
        reader.round(0.01)


def add(redis: Redis, job: object = None, id: str = "job", **fields: Any) -> str:
    job = job or {"id": id, "messages": [{"role": "user", "content": SECRET}]}
    entry: dict[Any, Any] = {"job": job if isinstance(job, bytes) else json.dumps(job), "reply": REPLY} | fields
    return cast(bytes, redis.xadd(INBOX, entry)).decode()


def pending(redis: Redis) -> int:
    return cast(int, cast(dict[str, Any], redis.xpending(INBOX, GROUP))["pending"])


def header(redis: Redis, key: str) -> Header:
    return Header.parse(cast(bytes, redis.get(key)).partition(b"\n")[0])


def outbox(redis: Redis) -> list[dict[str, str]]:
    listed = cast(list[tuple[bytes, dict[bytes, bytes]]], redis.xrange(OUTBOX))
    return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in listed]


def test_a_job_is_accepted_published_and_its_entry_deleted(redis: Redis, make_reader: MakeReader) -> None:
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    add(redis, stream="1", trace=trace)
    drain(make_reader())
    kept = header(redis, entry_key("job"))
    assert (kept.reply, kept.stream, kept.trace) == (REPLY, True, trace)
    assert redis.llen("interactive") == 1
    assert redis.xlen(INBOX) == 0
    assert pending(redis) == 0
    assert not redis.exists(OUTBOX)


def test_an_invalid_job_ends_under_its_id_and_is_told_in_the_outbox(
    redis: Redis, make_reader: MakeReader, app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {"id": "bad", "messages": [{"role": "user", "content": SECRET}], "temperature": 7}
    entry = add(redis, bad)
    drain(make_reader())
    error = decode(app.backend, cast(bytes, redis.get(outcome_key("bad"))))
    assert isinstance(error, InvalidJob)
    assert redis.lpop(REPLY) == b"bad"
    assert outbox(redis) == [{"entry": entry, "id": "bad", "code": "invalid_job", "message": str(error)}]
    assert 0 < cast(int, redis.ttl(OUTBOX)) <= QueueSettings(redis_url="redis://x").result_ttl_s
    assert redis.xlen(INBOX) == 0
    assert pending(redis) == 0
    assert SECRET not in caplog.text + str(outbox(redis))


def test_an_entry_without_an_id_is_told_in_the_outbox_alone(redis: Redis, make_reader: MakeReader) -> None:
    entries = [add(redis, b"\xff"), add(redis, {"messages": []}), add(redis, b"x" * 100_001)]
    drain(make_reader())
    assert [told["entry"] for told in outbox(redis)] == entries
    assert {told["id"] for told in outbox(redis)} == {""}
    assert redis.xlen(INBOX) == 0
    assert redis.keys("celery-task-meta-*") == []


def test_a_refused_entry_leaves_a_job_with_its_id_alone(redis: Redis, make_reader: MakeReader) -> None:
    add(redis)
    add(redis, {"id": "job", "messages": []})
    drain(make_reader())
    assert header(redis, entry_key("job")).state == "queued"
    assert [told["id"] for told in outbox(redis)] == ["job"]


def test_a_job_of_a_newer_version_is_kept_as_a_dead_letter(redis: Redis, make_reader: MakeReader) -> None:
    newer = {"id": "new", "messages": [{"role": "user", "content": SECRET}], "version": VERSION + 1}
    add(redis, newer)
    drain(make_reader())
    kept = cast(bytes, redis.get(dead_key("new")))
    assert json.loads(kept.partition(b"\n")[2]) == newer
    assert [told["code"] for told in outbox(redis)] == ["unsupported_version"]


def test_the_same_id_twice_is_one_job(redis: Redis, make_reader: MakeReader) -> None:
    add(redis)
    add(redis)
    drain(make_reader())
    assert Ledger(redis).counts()["interactive"]["queued"] == 1
    assert redis.xlen(INBOX) == 0


def test_a_job_that_had_ended_is_told_to_who_asks_again(
    redis: Redis, make_reader: MakeReader, app: Celery, queue_settings: QueueSettings
) -> None:
    reader = make_reader()
    add(redis)
    drain(reader)
    Closing(app, Ledger(redis), 60).close("job", InvalidJob("as an example"))
    redis.delete(REPLY)
    add(redis, reply="vqa:reply:later")
    # not a list: the producer finds the outcome by polling
    redis.set("vqa:reply:wrong", "another program's")
    add(redis, reply="vqa:reply:wrong")
    drain(reader)
    assert redis.lpop("vqa:reply:later") == b"job"
    assert redis.xlen(INBOX) == 0
    assert not redis.exists(entry_key("job"))


def test_images_named_by_their_hash_are_kept_for_the_job(redis: Redis, make_reader: MakeReader) -> None:
    name = "sha256:" + "0" * 64
    redis.set(f"vqa:image:{name}", b"image", ex=5)
    add(redis, {"id": "job", "messages": [{"role": "user", "content": [{"type": "image", "image": name}]}]})
    drain(make_reader())
    assert cast(int, redis.ttl(f"vqa:image:{name}")) > 3600


def test_jobs_wait_in_the_inbox_while_their_lane_is_full(redis: Redis, make_reader: MakeReader, app: Celery) -> None:
    entries = [add(redis, id=f"job-{number}") for number in range(5)]
    reader = make_reader(queue_most=2)
    for _ in range(4):
        reader.round(0.01)
    assert Ledger(redis).counts()["interactive"]["queued"] == 2
    assert redis.xlen(INBOX) == 3
    assert not redis.exists(OUTBOX)
    # nobody is refused, whatever comes meanwhile
    entries.append(add(redis, id="job-5"))
    for _ in range(20):
        open_ids = [key.removeprefix(b"vqa:job:").decode() for key in cast(list[bytes], redis.keys("vqa:job:*"))]
        Closing(app, Ledger(redis), 60).close_all(open_ids, InvalidJob("as an example"))
        reader.round(0.01)
    assert redis.xlen(INBOX) == 0
    assert {cast(bytes, id) for id in cast(list[bytes], redis.lrange(REPLY, 0, -1))} == {
        f"job-{number}".encode() for number in range(6)
    }


def test_a_restarted_worker_begins_with_what_it_had_read(redis: Redis, make_reader: MakeReader) -> None:
    make_reader("a")
    add(redis)
    killed = InboxStream(redis, "a", 60)
    assert len(killed.read(">", 10)) == 1
    assert not killed.read(">", 10)
    drain(make_reader("a"))
    assert redis.exists(entry_key("job"))
    assert pending(redis) == redis.xlen(INBOX) == 0


def test_what_a_killed_worker_had_read_goes_to_another_one_after_a_lease(redis: Redis, make_reader: MakeReader) -> None:
    soon, late = make_reader("soon", lease_s=0.0), make_reader("late", lease_s=60.0)
    add(redis)
    InboxStream(redis, "killed", 60).read(">", 10)
    drain(late)
    assert not redis.exists(entry_key("job"))
    drain(soon)
    assert redis.exists(entry_key("job"))
    assert pending(redis) == redis.xlen(INBOX) == 0


def test_a_worker_that_stops_leaves_the_group_unless_it_holds_entries(redis: Redis, make_reader: MakeReader) -> None:
    reader = make_reader("a")
    drain(reader)
    InboxStream(redis, "a", 60).leave()
    assert redis.xinfo_consumers(INBOX, GROUP) == []
    add(redis)
    held = InboxStream(redis, "b", 60)
    held.read(">", 1)
    held.leave()
    assert pending(redis) == 1


def test_entries_deleted_after_they_were_read_are_forgotten(redis: Redis, make_reader: MakeReader) -> None:
    reader = make_reader("a")
    drain(reader)
    entry = add(redis)
    InboxStream(redis, "a", 60).read(">", 1)
    redis.xdel(INBOX, entry)
    reader._position = "0"
    drain(reader)
    assert pending(redis) == 0
    assert not redis.exists(OUTBOX)


def test_consumers_of_vanished_workers_are_removed_and_those_with_entries_kept(
    redis: Redis, make_reader: MakeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_reader()
    add(redis)
    InboxStream(redis, "idle", 60).read("0", 1)
    holding = InboxStream(redis, "holding", 60)
    holding.read(">", 1)
    monkeypatch.setattr("workers.inbox.stream._GONE_MS", -1)
    holding.forget_vanished()
    names = {consumer["name"] for consumer in cast(list[dict[str, Any]], redis.xinfo_consumers(INBOX, GROUP))}
    assert names == {b"holding"}


def test_a_large_entry_makes_the_next_calls_small(redis: Redis, make_reader: MakeReader) -> None:
    reader = make_reader()
    assert reader._count == 1
    add(redis)
    drain(reader)
    assert reader._count == 16
    redis.xadd(INBOX, {"job": b"x" * 9 * 2**20})
    reader.round(0.01)
    assert reader._count == 1


def test_without_the_group_redis_says_so(redis: Redis) -> None:
    stream = InboxStream(redis, "worker", 60)
    with pytest.raises(ResponseError) as caught:
        stream.read(">", 1)
    assert "NOGROUP" in describe(caught.value)
    stream.create()
    stream.create()
    assert stream.read(">", 1) == []


def test_every_job_of_a_client_is_accepted_as_it_is(redis: Redis, make_reader: MakeReader) -> None:
    job = Job(messages=[{"role": "user", "content": SECRET}], lane="bulk", tenant="one", stop=["."])
    add(redis, job.to_json())
    drain(make_reader())
    payload = cast(bytes, redis.get(entry_key(job.id))).partition(b"\n")[2]
    kept = Job.from_json(payload)
    assert kept.model_copy(update={"timeout_s": None, "retry": None}) == job
    assert kept.timeout_s == 86_400


def test_entries_wait_while_redis_is_full(redis: Redis, make_reader: MakeReader) -> None:
    reader = make_reader()
    reader.round(0.01)
    refused = add(redis, b"no job")
    add(redis)
    redis.config_set("maxmemory", 1)
    try:
        for _ in range(3):
            with pytest.raises(OutOfMemoryError):
                reader.round(0.01)
            # as after every error
            reader._position = "0"
        assert redis.xlen(INBOX) == 2
    finally:
        redis.config_set("maxmemory", 0)
    drain(reader)
    assert redis.exists(entry_key("job"))
    assert [told["entry"] for told in outbox(redis)] == [refused]
    assert pending(redis) == redis.xlen(INBOX) == 0


def test_entries_are_deleted_although_redis_is_full(redis: Redis, make_reader: MakeReader) -> None:
    make_reader()
    entry, stream = add(redis), InboxStream(redis, "worker", 60)
    redis.config_set("maxmemory", 1)
    try:
        stream.claim(0)
        assert [read.id for read in stream.read(">", 1)] == [entry]
        stream.delete([entry])
    finally:
        redis.config_set("maxmemory", 0)
    assert pending(redis) == redis.xlen(INBOX) == 0
