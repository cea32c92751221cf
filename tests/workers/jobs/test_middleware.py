from typing import cast

import pytest

from vqa.answer import Answer, Timings, Usage
from vqa.errors import EngineError, VQAError
from vqa.jobs.job import Job
from vqa.ledger.records import Lease
from vqa.results import Outcome
from workers.jobs.middleware import run

JOB = Job(id="a", messages=[{"role": "user", "content": "?"}])
#: none of these policies looks at it
LEASE = cast(Lease, None)


def answer(text: str) -> Answer:
    usage = Usage(prompt_tokens=1, completion_tokens=1)
    timings = Timings(queued_s=0, media_s=0, engine_s=0, total_s=0)
    return Answer(
        id="a", text=text, finish_reason="stop", usage=usage, timings=timings, model="m", worker="w", attempt=1
    )


class Policy:
    def __init__(self, name: str, calls: list[str], early: Answer | None = None) -> None:
        self.name, self.calls, self.early = name, calls, early

    def before(self, job: Job, lease: Lease) -> Answer | None:
        self.calls.append(f"before {self.name}")
        return self.early

    def after(self, job: Job, lease: Lease, outcome: Outcome) -> Outcome:
        self.calls.append(f"after {self.name}")
        return outcome if isinstance(outcome, VQAError) else answer(f"{outcome.text} {self.name}")


@pytest.fixture
def calls() -> list[str]:
    return []


def test_the_first_is_the_outermost_and_each_may_change_the_outcome(calls: list[str]) -> None:
    policies = [Policy("first", calls), Policy("second", calls)]
    assert run(policies, JOB, LEASE, lambda job, lease: answer("engine")) == answer("engine second first")
    assert calls == ["before first", "before second", "after second", "after first"]


def test_an_early_answer_skips_what_is_further_in(calls: list[str]) -> None:
    policies = [Policy("first", calls), Policy("cache", calls, answer("cached")), Policy("last", calls)]
    assert run(policies, JOB, LEASE, lambda job, lease: pytest.fail("computed")) == answer("cached first")
    assert calls == ["before first", "before cache", "after first"]


def test_an_error_of_the_engine_is_an_outcome(calls: list[str]) -> None:
    error = EngineError("no")

    def fail(job: Job, lease: Lease) -> Answer:
        raise error

    assert run([Policy("first", calls)], JOB, LEASE, fail) is error
    assert calls == ["before first", "after first"]
