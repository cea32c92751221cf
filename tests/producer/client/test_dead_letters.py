"""Dead letters at the clients: read, retried with the answer that follows, purged."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from producer import AsyncClient, Client, InvalidJob, Job, JobGivenUp
from tests.producer.conftest import MakeJob, PlayedWorker, answer, wait_until
from vqa.settings import QueueSettings


@pytest.fixture
def dead(client: Client, worker: PlayedWorker, question: MakeJob) -> str:
    """A job that was given up after two attempts."""
    id = client.submit(question(id="q1", timeout_s=40))
    worker.ledger.retry(id, worker.take(id).token, error="EngineError: once")
    worker.give_up(id)
    return id


@pytest.fixture
def other(queue_settings: QueueSettings) -> Iterator[Client]:
    with Client(queue_settings) as other:
        yield other


def test_a_dead_letter_is_the_job_with_its_past(client: Client, dead: str, redis: Redis) -> None:
    letter = client.dead_letters.get(dead)
    assert letter is not None
    assert (letter.id, letter.reason, letter.lane) == ("q1", "attempts_used_up", "interactive")
    assert letter.error == "EngineError: once more"
    assert [(past.attempt, past.worker, past.error) for past in letter.attempts] == [
        (1, "played@here", "EngineError: once"),
        (2, "played@here", "EngineError: once more"),
    ]
    assert letter.accepted <= letter.given_up
    assert abs(letter.given_up - datetime.now(UTC)) < timedelta(minutes=1)
    assert letter.job.id == "q1"
    assert letter.job.timeout_s == 40
    assert client.dead_letters.get("nobody's") is None


def test_a_job_that_was_given_up_is_said_to_be(client: Client, dead: str, worker: PlayedWorker) -> None:
    worker.ledger.dead_letter_message("malformed-1", "bulk", b"no job", "malformed: not JSON")
    states = client.states([dead, "malformed-1"])
    assert states[dead].state == states["malformed-1"].state == "given_up"
    assert states[dead].error == "JobGivenUp: attempts_used_up: given up"
    client.dead_letters.purge([dead])
    assert client.states([dead])[dead].state == "given_up"


def test_the_newest_come_first_and_are_chosen_by_reason_and_time(
    client: Client, worker: PlayedWorker, question: MakeJob, redis: Redis
) -> None:
    reasons = ["worker_lost", "attempts_used_up", "worker_lost"]
    for number, reason in enumerate(reasons):
        worker.give_up(client.submit(question(id=f"q{number}")), reason)
    worker.ledger.dead_letter_message("m1", "bulk", b"no job", "malformed: not JSON")
    seconds, _ = redis.time()
    for number, id in enumerate(["q0", "q1", "q2", "m1"]):
        redis.zadd("vqa:dead", {id: (seconds - 3600 * (4 - number)) * 1000})

    def ids(**choice: object) -> list[str]:
        return [letter.id for letter in client.dead_letters.list(**choice)]

    assert ids() == ["m1", "q2", "q1", "q0"]
    assert ids(limit=2) == ["m1", "q2"]
    assert ids(reason="worker_lost") == ["q2", "q0"]
    assert ids(reason="worker_lost", limit=1) == ["q2"]
    assert ids(reason="malformed") == ids(reason="malformed: not JSON") == ["m1"]
    assert ids(reason="worker") == []
    assert ids(since=timedelta(hours=2, minutes=30)) == ["m1", "q2"]
    assert ids(before=datetime.fromtimestamp(seconds, UTC) - timedelta(hours=3)) == ["q0"]
    assert ids(since=timedelta(hours=3, minutes=1), before=timedelta(hours=2, minutes=30)) == ["q1"]
    assert client.dead_letters.count() == 4


def test_whoever_waits_after_a_retry_gets_the_new_answer(
    client: Client, other: Client, dead: str, worker: PlayedWorker, redis: Redis
) -> None:
    with pytest.raises(JobGivenUp):
        client.answer(dead)
    got: list[str] = []
    assert client.dead_letters.retry([dead]) == {dead: "reopened"}
    # the client that submitted it hears by its reply list, the other one by looking
    threads = [threading.Thread(target=lambda of=of: got.append(of.answer(dead, 30).text)) for of in (client, other)]
    for thread in threads:
        thread.start()
    assert client.states([dead])[dead].state == "queued"
    assert client.states([dead])[dead].attempt == 0
    assert 30 < (client.states([dead])[dead].remaining_s or 0) <= 40
    assert client.dead_letters.get(dead) is None
    assert redis.llen("interactive") == 2
    worker.close(dead, answer(dead, "at last"))
    for thread in threads:
        thread.join(timeout=30)
    assert got == ["at last", "at last"]


def test_a_wait_that_began_before_it_was_given_up_is_told_and_the_next_one_waits(
    client: Client, worker: PlayedWorker, question: MakeJob
) -> None:
    id = client.submit(question())
    worker.give_up(id)
    with pytest.raises(JobGivenUp, match="attempts_used_up"):
        client.answer(id)
    client.dead_letters.retry([id])
    closing = threading.Timer(0.7, worker.close, (id, answer(id, "later")))
    closing.start()
    # the id that its first end put on the reply list is no news of the second one
    assert client.answer(id, timeout_s=30).text == "later"
    closing.join()


def test_a_job_that_is_given_up_again_shows_both_lives(client: Client, dead: str, worker: PlayedWorker) -> None:
    client.dead_letters.retry([dead])
    worker.give_up(dead, error="EngineError: still")
    letter = client.dead_letters.get(dead)
    assert letter is not None
    assert [past.error for past in letter.attempts][-2:] == ["EngineError: once more", "EngineError: still"]
    assert [past.attempt for past in letter.attempts] == [1, 2, 1]


def test_what_cannot_be_retried_stays_and_is_told_why(
    client: Client, dead: str, worker: PlayedWorker, question: MakeJob
) -> None:
    worker.ledger.dead_letter_message("m1", "bulk", b"\x80no job", "malformed: not JSON")
    worker.ledger.dead_letter_message("v1", "bulk", b'{"version": 99}', "unsupported_version")
    client.submit(question(id="open"))
    assert client.dead_letters.retry([dead, "m1", "v1", "open", "nobody's", dead]) == {
        dead: "reopened",
        "m1": "malformed",
        "v1": "unsupported_version",
        "open": "open",
        "nobody's": "unknown",
    }
    assert [letter.id for letter in client.dead_letters.list()] == ["v1", "m1"]
    malformed = client.dead_letters.get("m1")
    assert malformed is not None
    assert malformed.payload == b"\x80no job"
    with pytest.raises(InvalidJob):
        _ = malformed.job


def test_a_purged_dead_letter_leaves_its_outcome(client: Client, dead: str, redis: Redis) -> None:
    assert client.dead_letters.purge([dead, "nobody's"]) == 1
    assert client.dead_letters.purge([dead]) == 0
    assert client.dead_letters.list() == []
    assert client.dead_letters.count() == 0
    with pytest.raises(JobGivenUp):
        client.answer(dead)
    assert client.dead_letters.retry([dead]) == {dead: "unknown"}


def test_more_than_a_round_trip_carries_are_listed_retried_and_purged(
    client: Client, worker: PlayedWorker, question: MakeJob, redis: Redis
) -> None:
    ids = client.submit_many(question(lane="bulk") for _ in range(250))
    for id in ids:
        worker.give_up(id)
    assert len(client.dead_letters.list()) == 100
    letters = client.dead_letters.list(limit=None)
    assert {letter.id for letter in letters} == set(ids)
    redis.delete("bulk")
    assert set(client.dead_letters.retry(ids[:150]).values()) == {"reopened"}
    counts = client.counts()["bulk"]
    assert (redis.llen("bulk"), counts["queued"], counts["waiting"]) == (64, 64, 86)
    assert client.dead_letters.purge(letter.id for letter in letters) == 100


def test_images_of_a_dead_letter_are_kept_as_long_as_it_is(
    client: Client, worker: PlayedWorker, png: bytes, redis: Redis
) -> None:
    worker.give_up(client.submit(Job.about(png, "What is it?", id="q1", timeout_s=5)))
    letter = client.dead_letters.get("q1")
    assert letter is not None
    [name] = [part.image for part in letter.job.images()]
    assert isinstance(name, str)
    assert redis.ttl(f"vqa:image:{name}") > 7 * 86_400 - 60
    assert client.image_sizes([name, "sha256:" + "0" * 64]) == {name: len(png), "sha256:" + "0" * 64: None}


def test_asyncio_has_all_of_it(queue_settings: QueueSettings, worker: PlayedWorker, question: MakeJob) -> None:
    async def main() -> None:
        async with AsyncClient(queue_settings) as client, asyncio.timeout(60):
            id = await client.submit(question(id="q1"))
            worker.give_up(id)
            with pytest.raises(JobGivenUp):
                await client.answer(id)
            assert [letter.id for letter in await client.dead_letters.list(reason="attempts_used_up")] == ["q1"]
            assert await client.dead_letters.count() == 1
            assert await client.dead_letters.retry(["q1", "q2"]) == {"q1": "reopened", "q2": "unknown"}
            waiting = asyncio.create_task(client.answer(id))
            await asyncio.wait([waiting], timeout=0.2)
            worker.give_up(id)
            with pytest.raises(JobGivenUp):
                await waiting
            letter = await client.dead_letters.get(id)
            assert letter is not None
            assert await client.image_sizes([]) == {}
            assert await client.dead_letters.purge([id]) == 1

    asyncio.run(main())


def test_expired_dead_letters_are_not_counted_nor_listed(
    queue_settings: QueueSettings, worker: PlayedWorker, redis: Redis
) -> None:
    with Client(queue_settings, dead_ttl_s=1) as client:
        worker.ledger.dead_letter_message("m1", "bulk", b"no job", "malformed: not JSON")
        assert client.dead_letters.count() == 1
        wait_until(lambda: client.dead_letters.count() == 0, "the dead letter is too old to be counted")
        redis.delete("vqa:dead:m1")
        assert client.dead_letters.list() == []
