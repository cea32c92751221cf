"""The ledger's verbs in any order, several jobs at once, against a small model, with time under the test's control."""

from dataclasses import replace
from math import inf

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis import Redis

from tests.vqa.ledger.ledger_model import MOST, Model, Turns, flight
from vqa.ledger.commands import SCRIPT, dead_key, entry_key, outcome_key
from vqa.ledger.ledger import DEAD, DEADLINES, Ledger
from vqa.ledger.records import Ending, Header, Lease
from vqa.settings import Limits

#: the only lines of the script that ask for the time, and what stands in their place
ASKED = "local time = redis.call('TIME')\nlocal now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
TOLD = """
local now = tonumber(redis.call('GET', 'now'))
local time = {string.format('%.0f', math.floor(now / 1000)), string.format('%.0f', now % 1000 * 1000)}
"""
#: so that a few jobs are too many
MANY = "local LEAST_QUEUED = 64\n"
FEW = "local LEAST_QUEUED = 2\n"
EXAMPLES = 100

LANE = "bulk"
LOST = "WorkerLost"
START = 1_700_000_000_000
IDS = ("a", "b")
#: jobs of other tenants, which are there to wait for their turn
OTHERS = ("c", "d", "e", "f", "g", "h")
EVERY = IDS + OTHERS
ids = st.sampled_from(EVERY)
tenants = st.sampled_from(["", "red", "blue"])
seconds = st.sampled_from([0, 1, 5, 60])


class Verbs(RuleBasedStateMachine):
    redis: Redis

    @initialize()
    def fresh(self) -> None:
        assert ASKED in SCRIPT
        assert MANY in SCRIPT
        self.redis.flushall()
        self.now = START
        self.redis.set("now", self.now)
        script = SCRIPT.replace(ASKED, TOLD).replace(MANY, FEW)
        self.ledger = Ledger(self.redis, Limits(tenant=MOST), script=script)
        self.jobs = {id: Model() for id in EVERY}
        self.turns = Turns()
        self.another = (0, 0)
        self.drawn = 0
        # most of what can go wrong begins with a job that is taken
        for id in IDS:
            self.accept(id, 1000, "", there=True)
            self.take(id, 0, alone=False)

    @rule(by=seconds)
    def time_passes(self, by: int) -> None:
        self.now += by * 1000
        self.redis.set("now", self.now)

    @rule(id=ids, timeout_s=st.sampled_from([10, 1000]), tenant=tenants, there=st.booleans())
    def accept(self, id: str, timeout_s: int, tenant: str, there: bool) -> None:
        job = self.jobs[id]
        known = job.state if job.state == "waiting" else "open" if job.open else "closed"
        verdict = self.ledger.accept(id, LANE, b"{}", timeout_s, tenant=tenant, may_wait=not there)
        if job.state != "unknown":
            assert verdict == known
            return
        waits = not there and self.turns.must_wait(tenant, self.jobs)
        assert verdict == ("waiting" if waits else "accepted")
        deadline = self.now + timeout_s * 1000
        self.jobs[id] = Model(self.admitted(id, tenant, waits), self.now, self.now, deadline, tenant=tenant)

    @rule(first=st.integers(0, 5), count=st.integers(2, 6))
    def accept_several(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.accept(OTHERS[number % len(OTHERS)], 1000, ("red", "blue", "")[number % 3], there=False)

    def admitted(self, id: str, tenant: str, waits: bool) -> str:
        if waits:
            self.turns.join(id, tenant, self.jobs)
        return "waiting" if waits else "queued"

    @rule(slots=st.integers(0, 3))
    def another_worker_renews(self, slots: int) -> None:
        self.ledger.renew("another", [], 9, {"slots": slots})
        self.another = (self.now, slots)
        self.count_slots()

    def count_slots(self) -> None:
        seen, slots = self.another
        self.turns.slots = slots if seen >= self.now - 9000 else 0
        # when it expires is a matter of the server's clock, not of this one
        self.redis.persist("vqa:capacity")

    @rule()
    def promote(self) -> None:
        if not any(job.in_flight for job in self.jobs.values()):
            for tenant in sorted(self.turns.held):
                self.turns.landed(tenant)
        assert self.ledger.promote(LANE) == self.turns.promote(self.jobs, self.now)

    @rule(id=ids, lease_s=st.sampled_from([0, 9]), alone=st.booleans())
    def take(self, id: str, lease_s: int, alone: bool) -> None:
        job = self.jobs[id]
        self.drawn += 1
        token = f"t{self.drawn}"
        taken = self.ledger.take(id, "worker", token, lease_s, alone)
        last = job.lost > 0 and job.attempt >= 2
        if not job.open:
            assert taken == ("unknown" if job.state == "unknown" else "closed")
        elif job.state != "queued":
            assert taken == "held"
        elif job.deadline <= self.now:
            assert taken == "overdue"
        elif last and not alone:
            assert taken == "alone"
        else:
            assert isinstance(taken, Lease)
            assert (taken.header.attempt, taken.header.alone) == (job.attempt + 1, last)
            self.jobs[id] = replace(job, state="leased", score=self.now + lease_s * 1000, attempt=job.attempt + 1)
            self.jobs[id].token, self.jobs[id].alone, self.jobs[id].tokens = token, last, [*job.tokens, token]
            assert list(taken.promoted) == self.turns.refill(self.jobs, self.now)

    @rule(id=ids, times=st.integers(1, 3))
    def lose_workers(self, id: str, times: int) -> None:
        for _ in range(times):
            self.take(id, 0, alone=True)
            self.expire()

    def token(self, id: str, back: int) -> str:
        """One of the last tokens that held the job, or one that never did."""
        tokens = self.jobs[id].tokens
        return tokens[-1 - back] if back < len(tokens) else "never"

    @rule(backs=st.lists(st.integers(0, 2), min_size=2, max_size=2))
    def renew(self, backs: list[int]) -> None:
        held = [(id, self.token(id, back)) for id, back in zip(IDS, backs, strict=True)]
        lost = self.ledger.renew("worker", held, 9, {})
        self.count_slots()
        for id, token in held:
            job = self.jobs[id]
            mine = job.open and job.token == token
            assert (id not in lost) == mine
            if mine:
                revived = job.state == "queued"
                self.jobs[id] = replace(job, state="leased", score=self.now + 9000)
                self.jobs[id].lost -= revived
                self.jobs[id].history -= revived

    @rule(
        id=ids,
        back=st.integers(0, 2),
        charge=st.sampled_from(["0", "1", "lost"]),
        delay_s=st.sampled_from([0, 5]),
        error=st.sampled_from(["", "EngineError: x"]),
    )
    def retry(self, id: str, back: int, charge: str, delay_s: int, error: str) -> None:
        job, token = self.jobs[id], self.token(id, back)
        again = self.ledger.retry(id, token, delay_s, error, charge)
        holds = job.state == "leased" and job.token == token
        assert again == (holds or (job.open and job.retried == token))
        if holds:
            self.jobs[id] = replace(job, state="delayed" if delay_s else "queued", score=self.now + delay_s * 1000)
            self.jobs[id].token, self.jobs[id].retried = None, token
            self.jobs[id].attempt -= charge == "0"
            self.jobs[id].lost += charge == "lost"
            self.jobs[id].history = min(20, job.history + bool(error))

    @rule(
        id=ids,
        back=st.integers(0, 2),
        forced=st.booleans(),
        reason=st.sampled_from(["", "worker_lost"]),
    )
    def close(self, id: str, back: int, forced: bool, reason: str) -> None:
        job, token = self.jobs[id], "" if forced else self.token(id, back)
        outcome = f"{id} by {token} {reason}".encode()
        closed = self.ledger.close(Ending(id, token, outcome, 3600, reason, "x" if reason else ""))
        mine = job.open and (forced or job.token == token)
        assert closed.done == (mine or (not job.open and job.outcome == outcome))
        if mine:
            self.jobs[id] = replace(job, state="dead" if reason else "closed", outcome=outcome)
            if reason and job.state == "leased":
                self.jobs[id].history = min(20, job.history + 1)
            if job.state == "waiting":
                self.turns.leave(id, job.tenant)
            else:
                self.turns.landed(job.tenant)
        assert list(closed.promoted) == (self.turns.refill(self.jobs, self.now) if mine else [])

    @rule(verb=st.sampled_from(["expire", "release_delayed", "requeue", "overdue"]))
    def sweep(self, verb: str) -> None:
        getattr(self, verb)()

    def expire(self) -> None:
        due = {id for id, job in self.jobs.items() if job.state == "leased" and job.score <= self.now}
        last = {id for id in due if self.jobs[id].alone}
        queued, given_up = self.ledger.expire(LANE, 10, LOST, self.now, lease_s=9)
        assert (set(queued), set(given_up)) == (due - last, last)
        for id in queued:
            job = self.jobs[id]
            self.jobs[id] = replace(
                job, state="queued", score=self.now, lost=job.lost + 1, history=min(20, job.history + 1)
            )

    def release_delayed(self) -> None:
        due = {id for id, job in self.jobs.items() if job.state == "delayed" and job.score <= self.now}
        assert set(self.ledger.release_delayed(LANE, 10)) == due
        for id in due:
            self.jobs[id] = replace(self.jobs[id], state="queued", score=self.now)

    def requeue(self) -> None:
        for before in (60, 3, None):
            self.requeue_before(before)

    def requeue_before(self, before: int | None) -> None:
        bound = self.now - 5000 - (before or 0) * 1000
        due = {id for id, job in self.jobs.items() if job.state == "queued" and job.score < bound}
        assert set(self.ledger.requeue(LANE, 5, None if before is None else self.now - before * 1000, 10)) == due
        for id in due:
            self.jobs[id].score = self.now

    def overdue(self) -> None:
        assert set(self.ledger.overdue(10)) == {
            id for id, job in self.jobs.items() if job.open and job.deadline <= self.now
        }

    @rule(id=ids)
    def reopen(self, id: str) -> None:
        job = self.jobs[id]
        dead = job.state == "dead"
        waits = dead and self.turns.must_wait(job.tenant, self.jobs)
        verdict = "open" if job.open else "waiting" if waits else LANE if dead else "unknown"
        assert self.ledger.reopen(id, 3600) == verdict
        if dead:
            deadline = self.now + job.deadline - job.accepted
            state = self.admitted(id, job.tenant, waits)
            self.jobs[id] = Model(state, self.now, self.now, deadline, history=job.history, tenant=job.tenant)

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        if not hasattr(self, "jobs"):
            return
        states = ("queued", "leased", "delayed")
        with self.redis.pipeline(transaction=False) as pipe:
            for state in states:
                pipe.zrange(f"vqa:{state}:{LANE}", 0, -1, withscores=True)
            pipe.zrange(DEADLINES, 0, -1, withscores=True).zrange(DEAD, 0, -1)
            *placed, deadlines, dead = pipe.execute()
        for state, found in zip(states, placed, strict=True):
            assert dict(found) == {id.encode(): job.score for id, job in self.jobs.items() if job.state == state}
        assert dict(deadlines) == {id.encode(): job.deadline for id, job in self.jobs.items() if job.open}
        assert set(dead) == {id.encode() for id, job in self.jobs.items() if job.state == "dead"}

    @invariant()
    def turns_and_jobs_in_flight_are_as_the_model_says(self) -> None:
        if not hasattr(self, "jobs"):
            return
        tenants = ("", "red", "blue")
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(f"vqa:flight:{LANE}").zrange(f"vqa:turns:{LANE}", 0, -1, withscores=True)
            for tenant in tenants:
                pipe.zrange(f"vqa:waiting:{LANE}:{tenant}", 0, -1, withscores=True)
            in_flight, turns, *waiting = pipe.execute()
        assert in_flight == {
            job.tenant.encode(): b"%d" % flight(self.jobs, job.tenant) for job in self.jobs.values() if job.in_flight
        }
        assert [tenant.decode() for tenant, turn in turns if turn != inf] == self.turns.round
        assert {tenant.decode() for tenant, turn in turns if turn == inf} == self.turns.held
        for tenant, found in zip(tenants, waiting, strict=True):
            assert dict(found) == {id.encode(): self.jobs[id].score for id in self.turns.waiting.get(tenant, ())}
        states = ("waiting", "queued", "leased", "delayed")
        counts = {state: sum(job.state == state for job in self.jobs.values()) for state in states}
        assert self.ledger.counts()[LANE] == counts

    @invariant()
    def open_closed_or_dead_and_as_the_model_says(self) -> None:
        if not hasattr(self, "jobs"):
            return
        with self.redis.pipeline(transaction=False) as pipe:
            for id in self.jobs:
                pipe.get(entry_key(id)).get(dead_key(id)).get(outcome_key(id))
            replies = iter(pipe.execute())
        for job in self.jobs.values():
            entry, letter, outcome = (next(replies) for _ in range(3))
            assert (entry is not None, letter is not None, outcome) == (job.open, job.state == "dead", job.outcome)
            if entry is not None:
                header = Header.parse(entry.partition(b"\n")[0])
                seen = (header.state, header.attempt, header.lost, header.token, len(header.history), header.tenant)
                assert seen == (job.state, job.attempt, job.lost, job.token, job.history, job.tenant)
            if letter is not None:
                header = Header.parse(letter.partition(b"\n")[0])
                assert (header.attempt, len(header.history)) == (job.attempt, job.history)


def test_any_order_of_verbs_keeps_every_job_in_one_place(redis: Redis) -> None:
    Verbs.redis = redis
    run_state_machine_as_test(
        Verbs,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
