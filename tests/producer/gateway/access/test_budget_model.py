"""Reserve, settle, charge and expire in any order against a small model, with time under the test's control."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis import Redis

from producer.gateway.access.budgets import SCRIPT, Budget, Budgets
from producer.gateway.access.caller import Allowance, Caller
from producer.gateway.access.exchanges import Exchanges
from tests.producer.gateway.access.budget_model import DAY_MS, MINUTE_MS, Model
from vqa.settings import QueueSettings

#: the only lines of the script that ask for the time, and what stands in their place
ASKED = "local time = redis.call('TIME')\nlocal now = time[1] * 1000 + math.floor(time[2] / 1000)\n"
TOLD = "local now = tonumber(redis.call('GET', 'now'))\n"
#: so that three jobs in flight are many
FEW, FEWER = "local FEW = 64\n", "local FEW = 2\n"
EXAMPLES = 60
START = 1_700_000_000_000
CALLER = Caller(
    key_id="key_a", allowance=Allowance(tokens_per_minute=1000, tokens_per_day=2500, in_flight=3), tenant="a"
)

jobs = st.sampled_from(["a", "b", "c", "d", "e"])
tokens = st.sampled_from([1, 7, 300, 900, 1000])
spans_ms = st.sampled_from([1, 99, 1000, 20_000, MINUTE_MS, 2 * MINUTE_MS + 1, DAY_MS // 2])


class Verbs(RuleBasedStateMachine):
    redis: Redis
    runner: asyncio.Runner
    budgets: Budgets

    @initialize()
    def fresh(self) -> None:
        self.redis.flushall()
        self.redis.set("now", START)
        self.model = Model(minute_most=1000, day_most=2500, flight_most=3, now=START)
        # most of what can go wrong begins with no place left
        for job in ("a", "b", "c"):
            self.reserve(job, 7, 1000)

    @rule(by=spans_ms)
    def time_passes(self, by: int) -> None:
        self.model.now += by
        self.redis.set("now", self.model.now)

    # in real time the keys would expire with the shortest of these
    @rule(job=jobs, tokens=tokens, timeout_s=st.sampled_from([90, 1000]))
    def reserve(self, job: str, tokens: int, timeout_s: int) -> None:
        budget = self.run(self.budgets.reserve(CALLER, job, tokens, timeout_s))
        assert budget.verdict == self.model.reserve(job, tokens, timeout_s * 1000)
        if budget.verdict == "minute":
            assert budget.minute
            assert budget.minute.wait_s(tokens) > 0
        assert 0 <= budget.free_in_s <= 1000

    @rule(job=jobs, used=st.sampled_from([0, 5, 300, 950, 1200]))
    def settle(self, job: str, used: int) -> None:
        self.run(self.budgets.settle(CALLER, job, used))
        self.model.settle(job, used)

    @rule(tokens=tokens)
    def charge(self, tokens: int) -> None:
        self.run(self.budgets.charge(CALLER, tokens))
        self.model.add(tokens, self.model.now)

    @rule(job=jobs, used=st.sampled_from([0, 5, 300]))
    def is_answered(self, job: str, used: int) -> None:
        usage = {"prompt_tokens": used, "completion_tokens": 1}
        self.end(job, json.dumps({"status": "SUCCESS", "result": {"usage": usage}}), used + 1)

    @rule(job=jobs)
    def fails(self, job: str) -> None:
        self.end(job, json.dumps({"status": "FAILURE", "result": {"exc_type": "BadImage"}}), 0)

    @rule(job=jobs, outcome=st.sampled_from(["", "no JSON", "[]", '{"status": "SUCCESS", "result": "text"}']))
    def has_an_outcome_that_tells_no_tokens(self, job: str, outcome: str) -> None:
        self.end(job, outcome, None)

    def end(self, job: str, outcome: str, used: int | None) -> None:
        self.redis.set(f"celery-task-meta-{job}", outcome)
        self.model.ended[job] = used

    @invariant()
    def counts_are_equal(self) -> None:
        budget = self.run(self.budgets.look(CALLER))
        assert budget.minute
        assert budget.day
        assert budget.minute.used == self.model.used(MINUTE_MS)
        assert budget.day.used == self.model.used(DAY_MS)
        assert budget.in_flight == len(self.model.held)
        # both are written together, and no reservation is left behind without a deadline
        assert self.redis.hlen("vqa:budget:key_a:held") == budget.in_flight

    def run(self, verb: Coroutine[Any, Any, Budget]) -> Budget:
        return self.runner.run(verb)


def test_the_script_counts_as_the_model_does(redis: Redis, queue_settings: QueueSettings) -> None:
    assert ASKED in SCRIPT
    assert FEW in SCRIPT
    with asyncio.Runner() as runner:
        exchanges = Exchanges(queue_settings)
        Verbs.redis, Verbs.runner = redis, runner
        Verbs.budgets = Budgets(exchanges, SCRIPT.replace(ASKED, TOLD).replace(FEW, FEWER))
        try:
            run_state_machine_as_test(
                Verbs,
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=30,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(exchanges.close())
