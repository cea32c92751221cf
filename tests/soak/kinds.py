"""The load's calls through `Client`. Each submits jobs, waits until they have ended, and reports how to a tally."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable
from typing import Any

from celery import Celery

from producer import Client
from tests.chaos.jobs import Case, make_case
from tests.soak.tally import LATE, Tally
from vqa.answer import Answer
from vqa.celery import TASK
from vqa.errors import Cancelled, DeadlineExceeded, JobGivenUp
from vqa.results import Outcome

BATCH_ROWS = 200
#: a job waits for at most a lease, a redelivery and the restart of a worker
_TIMEOUT_S = 120.0
#: for a message of another Celery app to become a job
_ADOPTED_S = 300.0


class Kinds:
    """The kinds of calls; any thread may make them."""

    def __init__(self, client: Client, other: Celery, tally: Tally) -> None:
        self._client = client
        self._other = other
        self._tally = tally

    def ask(self) -> None:
        self._finish(self._submit("ask", random.uniform(0, 0.4)), Answer)

    def image(self) -> None:
        size = random.randint(16, 200), random.randint(16, 200)
        self._finish(self._submit("image", 0.05, size=size), Answer)

    def bulk(self) -> None:
        self._finish(self._submit("bulk", random.uniform(0, 1), lane="bulk"), Answer)

    def twice(self) -> None:
        case = self._submit("twice", 0.1)
        self._client.submit(case.job)
        self._finish(case, Answer)
        self._client.submit(case.job)

    def cancel(self) -> None:
        case = self._submit("cancel", 1)
        time.sleep(random.uniform(0, 0.5))
        self._client.cancel(case.job.id)
        self._finish(case, Answer, Cancelled)

    def expire(self) -> None:
        self._finish(self._submit("expire", 2, timeout_s=0.3), DeadlineExceeded)

    def transient(self) -> None:
        metadata = {"echo_fail": "EngineError", "echo_fail_attempts": "1"}
        self._finish(self._submit("transient", 0.05, metadata, retry={"attempts": 4, "base_s": 0.2}), Answer)

    def dead(self) -> None:
        """Give up a job, retry its dead letter, which is given up again, and purge it."""
        metadata = {"echo_fail": "EngineError"}
        case = self._submit("dead", 0.05, metadata, retry={"attempts": 2, "base_s": 0.2})
        self._tally.reopen(case.job.id)
        self._finish(case, JobGivenUp)
        if (verdict := self._client.dead_letters.retry([case.job.id])[case.job.id]) != "reopened":
            self._tally.fault("wrong", f"dead letter {case.job.id}: {verdict}")
            return
        self._finish(case, JobGivenUp)
        self._client.dead_letters.purge([case.job.id])

    def stream(self) -> None:
        case = _case("stream", 0.5)
        with self._client.stream(case.job) as stream:
            text = ""
            for piece in stream:
                # after a killed worker the text begins anew
                text = piece.text if piece.restarted else text + piece.text
            self._compare(case, text, stream.answer)

    def foreign(self) -> None:
        """Send a job as another Celery app does."""
        case = _case("foreign", 0.05, lane="bulk")
        self._other.send_task(TASK, [json.loads(case.job.to_json())], task_id=case.job.id, queue=case.job.lane)
        until = time.monotonic() + _ADOPTED_S
        while self._client.states([case.job.id])[case.job.id].state == "unknown" and time.monotonic() < until:
            time.sleep(0.1)
        self._finish(case, Answer)

    def batch(self) -> None:
        cases = {case.job.id: case for case in (_case("batch", 0.02, lane="bulk") for _ in range(BATCH_ROWS))}
        batch = self._client.batches.create([case.job for case in cases.values()])
        for result in batch.results(_TIMEOUT_S):
            self._judge(cases.pop(result.custom_id), result.outcome, Answer)
        for case in cases.values():
            self._tally.fault("lost", f"{case.job.id} is not in its batch's results")

    def _submit(self, kind: str, delay_s: float, *arguments: Any, **fields: Any) -> Case:
        case = _case(kind, delay_s, *arguments, **fields)
        self._client.submit(case.job)
        return case

    def _finish(self, case: Case, *expected: type[Outcome]) -> None:
        [(_, outcome)] = self._client.answers([case.job.id], _TIMEOUT_S + 60)
        self._judge(case, outcome, *expected)

    def _judge(self, case: Case, outcome: Outcome, *expected: type[Outcome]) -> None:
        if isinstance(outcome, Answer) and Answer in expected:
            self._compare(case, case.expect, outcome)
        elif isinstance(outcome, expected):
            self._tally.end(case.kind, type(outcome).__name__)
        elif isinstance(outcome, DeadlineExceeded):
            self._tally.end(case.kind, LATE)
        else:
            fault = "wrong" if isinstance(outcome, Answer) else "lost"
            self._tally.fault(fault, f"{case.job.id}: {type(outcome).__name__}")

    def _compare(self, case: Case, text: str, answer: Answer | None) -> None:
        if answer is not None and text == answer.text == case.expect:
            self._tally.end(case.kind, "Answer")
        else:
            self._tally.fault("wrong", f"{case.job.id} has another job's answer")


def _case(kind: str, delay_s: float, *arguments: Any, **fields: Any) -> Case:
    return make_case(f"{kind}-{uuid.uuid4().hex}", kind, delay_s, *arguments, **{"timeout_s": _TIMEOUT_S, **fields})


#: calls a second
def rates(kinds: Kinds) -> dict[Callable[[], None], float]:
    return {
        kinds.ask: 4,
        kinds.image: 1,
        kinds.bulk: 1,
        kinds.stream: 0.5,
        kinds.cancel: 0.5,
        kinds.foreign: 0.5,
        kinds.twice: 0.3,
        kinds.expire: 0.3,
        kinds.transient: 0.2,
        kinds.dead: 1 / 20,
        kinds.batch: 1 / 60,
    }
