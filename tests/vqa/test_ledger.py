"""The verbs against a real Redis, and all of them at random against a small model."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis import Redis

from vqa.celery import make_app, publish
from vqa.job import Job
from vqa.ledger import DROPPED, LANES, Lease, Ledger, entry_key, outcome_key
from vqa.settings import QueueSettings

LEASE_S = 60.0
OPEN = {"queued", "leased", "delayed"}


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis)


def accept(ledger: Ledger, id: str = "a", timeout_s: float = 60, reply: str = "") -> str:
    return ledger.accept(id, "bulk", b"payload\nwith newline", timeout_s, reply)


def take(ledger: Ledger, id: str = "a", token: str = "t", lease_s: float = LEASE_S) -> Lease:
    lease = ledger.take(id, "worker", token, lease_s)
    assert isinstance(lease, Lease)
    return lease


def test_a_job_is_accepted_once_and_not_again_while_its_outcome_is_kept(ledger: Ledger) -> None:
    assert accept(ledger) == "accepted"
    assert accept(ledger) == "open"
    take(ledger)
    assert accept(ledger) == "open"
    assert ledger.close("a", "t", b"outcome", 60)
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
    assert ledger.take("late", "worker", "t", LEASE_S) == "late"
    ledger.close("late", "", b"outcome", 60)
    assert ledger.take("late", "worker", "t", LEASE_S) == "closed"


def test_a_close_leaves_the_outcome_and_nothing_else(ledger: Ledger, redis: Redis) -> None:
    accept(ledger, reply="vqa:reply:me")
    take(ledger)
    assert ledger.close("a", "t", b"outcome", 60)
    assert redis.get(outcome_key("a")) == b"outcome"
    assert 0 < redis.ttl(outcome_key("a")) <= 60
    assert redis.lrange("vqa:reply:me", 0, -1) == [b"a"]
    assert redis.ttl("vqa:reply:me") > 0
    assert set(redis.keys()) == {outcome_key("a").encode(), b"vqa:reply:me"}


def test_who_lost_a_job_cannot_close_renew_or_retry_it(ledger: Ledger, redis: Redis) -> None:
    accept(ledger)
    take(ledger, token="old", lease_s=0)
    assert ledger.retry("a", "")
    take(ledger, token="new")
    assert not ledger.close("a", "old", b"wrong", 60)
    assert not ledger.retry("a", "old")
    assert ledger.renew("worker", [("a", "old")], LEASE_S, {}) == ["a"]
    assert ledger.close("a", "new", b"right", 60)
    assert redis.get(outcome_key("a")) == b"right"


def test_an_empty_token_moves_only_what_is_due(ledger: Ledger) -> None:
    accept(ledger)
    take(ledger)
    assert not ledger.retry("a", "")
    ledger.retry("a", "t", delay_s=60)
    assert not ledger.retry("a", "")


def test_a_lease_that_ran_out_is_revived_when_nobody_else_took_the_job(ledger: Ledger) -> None:
    accept(ledger)
    take(ledger, lease_s=0)
    assert ledger.retry("a", "", error="WorkerLost: its lease ran out")
    assert ledger.renew("worker", [("a", "t")], LEASE_S, {}) == []
    header = ledger.header("a")
    assert header is not None
    assert (header.state, header.lost) == ("leased", 0)
    assert ledger.close("a", "t", b"outcome", 60)


def test_a_give_back_does_not_count_as_an_attempt(ledger: Ledger) -> None:
    accept(ledger)
    take(ledger)
    assert ledger.retry("a", "t", counted=False)
    assert take(ledger, token="u").header.attempt == 1


def test_a_verb_whose_reply_was_lost_may_be_sent_again(ledger: Ledger) -> None:
    accept(ledger)
    take(ledger)
    assert ledger.retry("a", "t", counted=False)
    assert ledger.retry("a", "t", counted=False)
    take(ledger, token="u")
    assert ledger.close("a", "u", b"outcome", 60)
    assert ledger.close("a", "u", b"outcome", 60)
    assert not ledger.close("a", "t", b"another", 60)


def test_an_answer_counts_when_its_lease_ran_out_and_nobody_else_took_the_job(ledger: Ledger, redis: Redis) -> None:
    accept(ledger)
    take(ledger, lease_s=0)
    assert ledger.retry("a", "", error="WorkerLost: its lease ran out")
    assert ledger.close("a", "t", b"answer", 60)
    assert redis.get(outcome_key("a")) == b"answer"


def test_leases_are_renewed_in_a_full_redis(ledger: Ledger, redis: Redis) -> None:
    accept(ledger)
    take(ledger)
    redis.config_set("maxmemory", 1)
    try:
        assert ledger.renew("worker", [("a", "t")], LEASE_S, {}) == []
        assert ledger.close("a", "t", b"outcome", 60)
    finally:
        redis.config_set("maxmemory", 0)


def test_a_retry_waits_in_the_ledger_and_remembers_the_error(ledger: Ledger) -> None:
    accept(ledger)
    take(ledger)
    assert ledger.retry("a", "t", delay_s=0.001, error="EngineError: x")
    assert ledger.counts()["bulk"] == {"queued": 0, "leased": 0, "delayed": 1}
    while not ledger.due("delayed", 10):
        pass
    assert ledger.retry("a", "")
    lease = take(ledger, token="u")
    assert (lease.header.attempt, lease.header.error) == (2, "EngineError: x")


def test_closing_under_a_worker_tells_it(ledger: Ledger, redis: Redis) -> None:
    pubsub = redis.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(DROPPED)
    pubsub.get_message(timeout=1)
    accept(ledger)
    take(ledger)
    ledger.close("a", "", b"cancelled", 60)
    message = pubsub.get_message(timeout=5)
    pubsub.close()
    assert message is not None
    assert message["data"] == b"a"
    assert not ledger.close("a", "t", b"answer", 60)


def test_renewing_says_that_the_worker_lives(ledger: Ledger) -> None:
    ledger.renew("card0@host", [], LEASE_S, {"slots": 16})
    (worker,) = ledger.workers(within_s=10)
    assert (worker.name, worker.about) == ("card0@host", {"slots": 16})
    ledger.leave("card0@host")
    assert ledger.workers(within_s=10) == []


def test_a_queued_text_job_costs_redis_under_two_kilobytes(
    redis: Redis, ledger: Ledger, queue_settings: QueueSettings
) -> None:
    app = make_app(queue_settings)
    question = "What colour is the largest of the circles in this picture, and where is it?"

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


class Verbs(RuleBasedStateMachine):
    """One job and three workers; the model is who holds it and which outcome stands."""

    redis: Redis

    @initialize()
    def fresh(self) -> None:
        self.redis.flushall()
        self.ledger = Ledger(self.redis)
        self.state = "unknown"
        self.holder: str | None = None
        self.revivable: str | None = None
        self.attempt = 0
        self.retried: str | None = None
        self.drawn = 0
        self.outcomes: list[bytes] = []

    @rule()
    def accept(self) -> None:
        expected = {"unknown": "accepted", "closed": "closed"}.get(self.state, "open")
        assert self.ledger.accept("a", "bulk", b"{}", 3600) == expected
        if expected == "accepted":
            self.state = "queued"

    @rule(lease_s=st.sampled_from([0.0, LEASE_S]))
    def take(self, lease_s: float) -> None:
        self.drawn += 1
        lease = self.ledger.take("a", "worker", f"t{self.drawn}", lease_s)
        if self.state == "queued":
            assert isinstance(lease, Lease)
            self.attempt += 1
            assert lease.header.attempt == self.attempt
            self.state, self.holder, self.due = "leased", f"t{self.drawn}", lease_s == 0
            self.revivable = None
        else:
            assert lease == (self.state if self.state in {"unknown", "closed"} else "held")

    @rule(back=st.integers(0, 2))
    def renew(self, back: int) -> None:
        token = f"t{max(0, self.drawn - back)}"
        lost = self.ledger.renew("worker", [("a", token)], LEASE_S, {})
        if (self.state == "leased" and token == self.holder) or (self.state == "queued" and token == self.revivable):
            assert lost == []
            self.state, self.holder, self.revivable, self.due = "leased", token, None, False
        else:
            assert lost == ["a"]

    @rule(back=st.integers(0, 2), counted=st.booleans(), delay_s=st.sampled_from([0.0, 3600.0]))
    def retry(self, back: int, counted: bool, delay_s: float) -> None:
        token = f"t{max(0, self.drawn - back)}"
        again = self.ledger.retry("a", token, delay_s, counted=counted)
        holds = self.state == "leased" and token == self.holder
        assert again == (holds or (self.state in OPEN and token == self.retried))
        if holds:
            self.attempt -= not counted
            self.state, self.holder, self.retried = ("delayed" if delay_s else "queued"), None, token

    @rule()
    def janitor(self) -> None:
        due = self.state == "leased" and self.due
        assert self.ledger.retry("a", "") == (due or self.state == "queued")
        if due:
            self.state, self.holder, self.revivable = "queued", None, self.holder

    @rule(back=st.integers(0, 2), forced=st.booleans())
    def close(self, back: int, forced: bool) -> None:
        token = "" if forced else f"t{max(0, self.drawn - back)}"
        outcome = f"by {token}".encode()
        closed = self.ledger.close("a", token, outcome, 3600)
        before = self.state == "closed" and self.outcomes[-1] == outcome
        holds = (self.state == "leased" and token == self.holder) or (
            self.state == "queued" and token == self.revivable
        )
        mine = self.state in OPEN and (forced or holds)
        assert closed == (mine or before)
        if mine:
            self.state = "closed"
            self.outcomes.append(outcome)

    @invariant()
    def open_or_closed_and_never_both(self) -> None:
        if not hasattr(self, "state"):
            return
        assert self.redis.exists(entry_key("a")) == (self.state in OPEN)
        assert [self.redis.get(outcome_key("a"))] == (self.outcomes or [None])
        where = {state for lane in LANES for state, count in self.ledger.counts()[lane].items() if count}
        assert where == ({self.state} - {"unknown", "closed"})


def test_any_order_of_verbs_keeps_a_job_open_or_closed_never_both(redis: Redis) -> None:
    Verbs.redis = redis
    run_state_machine_as_test(
        Verbs,
        settings=settings(
            max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
