"""Each verb against a real Redis; test_ledger_model.py has all of them at random."""

import json
import time

import pytest
from redis import Redis

from vqa.celery import make_app, publish
from vqa.jobs.job import Job
from vqa.ledger.commands import dead_key, entry_key, outcome_key
from vqa.ledger.ledger import DROPPED, Ledger, Limits
from vqa.ledger.records import Ending, Header, Lease
from vqa.results import Tally
from vqa.settings import QueueSettings

LEASE_S = 60.0
LOST = "WorkerLost: its lease ran out"


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis)


def accept(ledger: Ledger, id: str = "a", timeout_s: float = 60, reply: str = "") -> str:
    return ledger.accept(id, "bulk", b"payload\nwith newline", timeout_s, reply)


def take(ledger: Ledger, id: str = "a", token: str = "t", lease_s: float = LEASE_S) -> Lease:
    lease = ledger.take(id, "worker", token, lease_s)
    assert isinstance(lease, Lease)
    return lease


def expire(ledger: Ledger) -> tuple[list[str], list[str]]:
    return ledger.expire("bulk", 10, LOST, round(time.time() * 1000), LEASE_S)


def test_a_job_is_accepted_once_and_not_again_while_its_outcome_is_kept(ledger: Ledger) -> None:
    assert accept(ledger) == "accepted"
    assert accept(ledger) == "open"
    take(ledger)
    assert accept(ledger) == "open"
    assert ledger.close(Ending("a", "t", b"outcome", 60))
    assert accept(ledger) == "closed"


def test_a_taken_job_is_whole_and_counts_an_attempt(ledger: Ledger) -> None:
    accept(ledger)
    lease = take(ledger)
    assert lease.payload == b"payload\nwith newline"
    assert (lease.header.attempt, lease.header.worker, lease.header.lane) == (1, "worker", "bulk")
    assert 59 < lease.remaining_s <= 60


def test_a_held_job_is_refused_to_everyone_else(ledger: Ledger) -> None:
    accept(ledger)
    take(ledger)
    assert ledger.take("a", "other", "other token", LEASE_S) == "held"


def test_a_take_whose_reply_was_lost_may_be_sent_again(ledger: Ledger) -> None:
    accept(ledger)
    assert take(ledger).header.attempt == take(ledger).header.attempt == 1


def test_what_is_unknown_closed_or_late_is_refused_with_the_reason(ledger: Ledger) -> None:
    assert ledger.take("a", "worker", "t", LEASE_S) == "unknown"
    accept(ledger, "late", timeout_s=0)
    assert ledger.take("late", "worker", "t", LEASE_S) == "overdue"
    ledger.close(Ending("late", "", b"outcome", 60))
    assert ledger.take("late", "worker", "t", LEASE_S) == "closed"


def test_a_close_leaves_the_outcome_a_count_and_nothing_else(ledger: Ledger, redis: Redis) -> None:
    accept(ledger, reply="vqa:reply:me")
    take(ledger)
    assert ledger.close(Ending("a", "t", b"outcome", 60, tally=Tally(code="")))
    assert redis.get(outcome_key("a")) == b"outcome"
    assert 0 < redis.ttl(outcome_key("a")) <= 60
    assert redis.lrange("vqa:reply:me", 0, -1) == [b"a"]
    assert redis.ttl("vqa:reply:me") > 0
    # of the ten seconds in which it was closed, for predictions: one key for all jobs, and it expires
    [counted] = redis.keys("vqa:closed:bulk:*")
    assert 0 < redis.ttl(counted) <= 330
    assert set(redis.keys()) == {outcome_key("a").encode(), b"vqa:reply:me", counted}


def test_who_lost_a_job_cannot_close_renew_or_retry_it(ledger: Ledger, redis: Redis) -> None:
    accept(ledger)
    take(ledger, token="old", lease_s=0)
    assert expire(ledger) == (["a"], [])
    take(ledger, token="new")
    assert not ledger.close(Ending("a", "old", b"wrong", 60))
    assert not ledger.retry("a", "old")
    assert ledger.renew("worker", [("a", "old")], LEASE_S, {}) == ["a"]
    assert ledger.close(Ending("a", "new", b"right", 60))
    assert redis.get(outcome_key("a")) == b"right"


def test_only_what_is_due_is_moved(ledger: Ledger) -> None:
    accept(ledger)
    take(ledger)
    assert expire(ledger) == ([], [])
    ledger.retry("a", "t", delay_s=60)
    assert ledger.release_delayed("bulk", 10) == []
    assert ledger.overdue(10) == []


def test_a_lease_that_ran_out_is_revived_when_nobody_else_took_the_job(ledger: Ledger) -> None:
    accept(ledger)
    take(ledger, lease_s=0)
    assert expire(ledger) == (["a"], [])
    assert ledger.renew("worker", [("a", "t")], LEASE_S, {}) == []
    header = ledger.headers(["a"]).get("a")
    assert header is not None
    assert (header.state, header.lost, header.history) == ("leased", 0, ())
    assert ledger.close(Ending("a", "t", b"outcome", 60))


def test_a_give_back_does_not_count_as_an_attempt(ledger: Ledger) -> None:
    accept(ledger)
    take(ledger)
    assert ledger.retry("a", "t", charge="0")
    assert take(ledger, token="u").header.attempt == 1


def test_a_verb_whose_reply_was_lost_may_be_sent_again(ledger: Ledger) -> None:
    accept(ledger)
    take(ledger)
    assert ledger.retry("a", "t", charge="0")
    assert ledger.retry("a", "t", charge="0")
    take(ledger, token="u")
    assert ledger.close(Ending("a", "u", b"outcome", 60))
    assert ledger.close(Ending("a", "u", b"outcome", 60))
    assert not ledger.close(Ending("a", "t", b"another", 60))


def test_an_answer_counts_when_its_lease_ran_out_and_nobody_else_took_the_job(ledger: Ledger, redis: Redis) -> None:
    accept(ledger)
    take(ledger, lease_s=0)
    assert expire(ledger) == (["a"], [])
    assert ledger.close(Ending("a", "t", b"answer", 60))
    assert redis.get(outcome_key("a")) == b"answer"


def test_leases_are_renewed_in_a_full_redis(ledger: Ledger, redis: Redis) -> None:
    accept(ledger)
    take(ledger)
    redis.config_set("maxmemory", 1)
    try:
        assert ledger.renew("worker", [("a", "t")], LEASE_S, {}) == []
        assert ledger.close(Ending("a", "t", b"outcome", 60))
    finally:
        redis.config_set("maxmemory", 0)


def test_a_retry_waits_in_the_ledger_and_remembers_the_error(ledger: Ledger) -> None:
    accept(ledger)
    take(ledger)
    assert ledger.retry("a", "t", delay_s=0.001, error="EngineError: x")
    assert ledger.counts()["bulk"] == {"waiting": 0, "queued": 0, "leased": 0, "delayed": 1}
    while ledger.release_delayed("bulk", 10) != ["a"]:
        pass
    lease = take(ledger, token="u")
    assert (lease.header.attempt, lease.header.error) == (2, "EngineError: x")


def test_closing_under_a_worker_tells_it(ledger: Ledger, redis: Redis) -> None:
    pubsub = redis.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(DROPPED)
    pubsub.get_message(timeout=1)
    accept(ledger)
    take(ledger)
    ledger.close(Ending("a", "", b"cancelled", 60))
    message = pubsub.get_message(timeout=5)
    pubsub.close()
    assert message is not None
    assert message["data"] == b"a"
    assert not ledger.close(Ending("a", "t", b"answer", 60))


def test_renewing_says_that_the_worker_lives(ledger: Ledger) -> None:
    ledger.renew("card0@host", [], LEASE_S, {"slots": 16})
    (worker,) = ledger.workers(within_s=10)
    assert (worker.name, worker.about) == ("card0@host", {"slots": 16})
    ledger.forget_worker("card0@host")
    assert ledger.workers(within_s=10) == []


def test_a_queued_text_job_costs_redis_under_two_kilobytes(
    redis: Redis, ledger: Ledger, queue_settings: QueueSettings
) -> None:
    app = make_app(queue_settings)
    question = "What colour is the largest of the circles in this image, and where is it?"

    def fill(count: int, start: int) -> None:
        with app.producer_pool.acquire(block=True) as producer, producer.batch():
            for number in range(start, start + count):
                job = Job(id=f"{number:036d}", messages=[{"role": "user", "content": question}])
                job = queue_settings.resolved(job)
                ledger.accept(job.id, job.lane, job.to_json(), 60)
                publish(producer, job.id, job.lane)

    fill(200, 0)
    before = redis.info("memory")["used_memory"]
    fill(1000, 200)
    assert (redis.info("memory")["used_memory"] - before) / 1000 < 2000


def test_a_job_that_lost_workers_has_its_last_attempt_alone(ledger: Ledger) -> None:
    accept(ledger)
    for token in ("one", "two"):
        assert not take(ledger, token=token, lease_s=0).header.alone
        assert expire(ledger) == (["a"], [])
    assert ledger.take("a", "worker", "three", LEASE_S) == "alone"
    lease = ledger.take("a", "worker", "three", 0, alone=True)
    assert isinstance(lease, Lease)
    assert (lease.header.attempt, lease.header.alone) == (3, True)
    assert [(past.attempt, past.worker, past.error) for past in lease.header.history] == [
        (1, "worker", LOST),
        (2, "worker", LOST),
    ]
    assert expire(ledger) == ([], ["a"])


def test_transient_errors_alone_never_make_a_job_run_alone(ledger: Ledger) -> None:
    accept(ledger)
    for attempt in range(1, 6):
        assert not take(ledger, token=str(attempt)).header.alone
        assert ledger.retry("a", str(attempt), error="EngineError: x")


def test_an_attempt_that_is_charged_as_lost_counts_like_one_whose_worker_vanished(ledger: Ledger) -> None:
    accept(ledger)
    take(ledger)
    assert ledger.retry("a", "t", error="EngineError: the engine crashed", charge="lost")
    header = ledger.headers(["a"]).get("a")
    assert header is not None
    assert (header.attempt, header.lost, header.state) == (1, 1, "queued")


def test_a_dead_letter_is_whole_and_keeps_its_images(ledger: Ledger, redis: Redis) -> None:
    image = "vqa:image:sha256:" + "a" * 64
    redis.set(image, b"x", ex=60)
    payload = b'{"image":"sha256:' + b"a" * 64 + b'"}'
    ledger.accept("a", "bulk", payload, 60)
    take(ledger)
    assert ledger.close(Ending("a", "t", b"outcome", 60, "worker_lost", "EngineError: x"))
    header, _, kept = (redis.get(dead_key("a")) or b"").partition(b"\n")
    letter = Header.parse(header)
    assert kept == payload
    assert (letter.state, letter.reason, letter.lane, letter.attempt) == ("dead", "worker_lost", "bulk", 1)
    assert [(past.worker, past.error) for past in letter.history] == [("worker", "EngineError: x")]
    assert redis.ttl(image) > 7 * 86_400 - 60
    assert redis.ttl(outcome_key("a")) > 7 * 86_400 - 60
    assert redis.zscore("vqa:dead", "a") == letter.dead
    assert accept(ledger) == "closed"
    redis.delete(outcome_key("a"))
    assert (accept(ledger), ledger.take("a", "worker", "u", LEASE_S)) == ("closed", "closed")


def test_a_dead_letter_is_a_job_again_with_its_past_and_its_timeout_anew(ledger: Ledger, redis: Redis) -> None:
    accept(ledger, reply="vqa:reply:me")
    take(ledger)
    assert ledger.close(Ending("a", "t", b"outcome", 60, "worker_lost", "EngineError: x"))
    assert ledger.reopen("a", 3600) == "bulk"
    assert ledger.reopen("a", 3600) == "open"
    assert ledger.reopen("b", 3600) == "unknown"
    assert not redis.exists(outcome_key("a"), dead_key("a"), "vqa:dead")
    lease = take(ledger, token="u")
    assert (lease.header.attempt, lease.header.reply, len(lease.header.history)) == (1, "vqa:reply:me", 1)
    assert 59 < lease.remaining_s <= 60


def test_the_oldest_dead_letters_go_first_and_loudly(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(redis, Limits(dead=2))
    for id in ("a", "b", "c"):
        accept(ledger, id)
        ledger.close(Ending(id, "", b"outcome", 60, "worker_lost", "x"))
    assert redis.zrange("vqa:dead", 0, -1) == [b"b", b"c"]
    assert not redis.exists(dead_key("a"))
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_full_lane_takes_no_more_and_the_other_one_does(redis: Redis) -> None:
    ledger = Ledger(redis, Limits(open_jobs=2))
    assert [accept(ledger, id) for id in ("a", "b", "c", "a")] == ["accepted", "accepted", "full", "open"]
    assert ledger.accept("c", "interactive", b"{}", 60) == "accepted"
    take(ledger)
    assert accept(ledger, "d") == "full"
    ledger.close(Ending("a", "t", b"outcome", 60))
    assert accept(ledger, "d") == "accepted"


def test_an_entry_that_was_removed_by_hand_does_not_hold_up_the_others(ledger: Ledger, redis: Redis) -> None:
    for id in ("a", "b"):
        ledger.accept(id, "bulk", b"{}", 0)
        take_late = ledger.take(id, "worker", "t", LEASE_S)
        assert take_late == "overdue"
    redis.delete(entry_key("a"))
    assert ledger.overdue(1) == []
    assert ledger.overdue(1) == ["b"]


def test_leases_are_not_judged_by_a_call_that_was_held_up(ledger: Ledger, redis: Redis) -> None:
    accept(ledger)
    take(ledger, lease_s=0)
    seconds, _ = redis.time()
    assert ledger.expire("bulk", 10, LOST, (seconds - 4) * 1000, LEASE_S) == ([], [])
    assert ledger.expire("bulk", 10, LOST, (seconds + 1) * 1000, LEASE_S) == (["a"], [])


def test_what_is_closed_for_its_deadline_or_its_last_worker_is_judged_again_then(ledger: Ledger) -> None:
    accept(ledger)
    assert not ledger.close(Ending("a", "", b"outcome", 60, close_if="overdue"))
    take(ledger)
    assert not ledger.close(Ending("a", "", b"outcome", 60, "worker_lost", "x", close_if="last"))
    ledger.accept("late", "bulk", b"{}", 0)
    assert ledger.close(Ending("late", "", b"outcome", 60, close_if="overdue"))


def test_several_attempts_go_back_in_one_call_and_only_those_that_are_held(ledger: Ledger) -> None:
    for id in ("a", "b", "c"):
        accept(ledger, id)
    held = [take(ledger, id) for id in ("a", "b", "c")]
    ledger.close(Ending("c", "t", b"outcome", 60))
    moved = ledger.give_back([(held[0], "0"), (held[1], "lost"), (held[2], "0")], "EngineError: x")
    assert [lease.id for lease in moved] == ["a", "b"]
    a, b = ledger.headers(["a"]).get("a"), ledger.headers(["b"]).get("b")
    assert a is not None
    assert b is not None
    assert (a.attempt, a.lost, b.attempt, b.lost, b.error) == (0, 0, 1, 1, "EngineError: x")


def test_what_a_later_release_says_of_a_job_is_let_pass_and_kept(ledger: Ledger, redis: Redis) -> None:
    accept(ledger, "a")
    header, payload = redis.get(entry_key("a")).split(b"\n", 1)
    past = {"attempt": 1, "worker": "w", "taken": 1, "ended": 2, "error": "x", "colour": "red"}
    said = json.loads(header) | {"colour": "red", "history": [past]}
    redis.set(entry_key("a"), json.dumps(said).encode() + b"\n" + payload)
    lease = ledger.take("a", "worker", "t", 60)
    assert isinstance(lease, Lease)
    assert lease.header.history[0].error == "x"
    assert ledger.headers(["a"])["a"].attempt == 1
    assert json.loads(redis.get(entry_key("a")).split(b"\n", 1)[0])["colour"] == "red"
