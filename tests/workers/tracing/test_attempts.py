"""The spans of attempts, whoever records them."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from tests.tracing import Recorded
from vqa.answer import Answer, Timings, Usage
from vqa.errors import EngineError, JobGivenUp
from vqa.jobs.job import Job
from vqa.ledger.attempt_spans import Clock, record_closed
from vqa.ledger.records import AttemptRecord, Header, Lease
from workers.engine.base import Completion, Prompt
from workers.jobs.endings import Delayed
from workers.tracing.attempts import AttemptSpans
from workers.tracing.engine import TracedEngine

TRACE_ID, SENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
NOW = 1_764_450_000_000
TOKENS = ["0123456789abcdef" + "0" * 16, "123456789abcdef0" + "0" * 16, "23456789abcdef01" + "0" * 16]

ANSWER = Answer(
    id="job",
    text="crimson",
    finish_reason="length",
    usage=Usage(prompt_tokens=7, completion_tokens=2),
    timings=Timings(queued_s=0, media_s=0, engine_s=0, total_s=0),
    model="m",
    worker="w",
    attempt=1,
)


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    recorded = Recorded()
    yield recorded
    recorded.provider.shutdown()


def lease(attempt: int = 1, trace: str | None = f"00-{TRACE_ID}-{SENT}-01", **fields: object) -> Lease:
    header = Header("leased", "bulk", NOW - 9000, NOW + 60_000, attempt, 0, taken=NOW, trace=trace)
    token = TOKENS[attempt - 1]
    return Lease("job", token, replace(header, token=token, worker="w", **fields), b"", NOW)


def lost(attempt: int, error: str = "WorkerLost: its lease ran out") -> AttemptRecord:
    return AttemptRecord(attempt, f"w{attempt}", NOW - 8000, NOW - 5000, error, TOKENS[attempt - 1])


def span_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def parent_id(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent else ""


class AnsweringEngine:
    """Answers at once."""

    model, fit, video_fit = "m", None, None

    def submit(self, prompt: Prompt) -> Future[Completion]:
        future: Future[Completion] = Future()
        future.set_result(Completion("crimson", "length", 7, 2, slot_wait_s=0.1, prefill_s=0.2, decode_s=0.3))
        return future


def test_the_stages_of_an_answer_are_in_order_and_tell_no_text(recorded: Recorded) -> None:
    spans = AttemptSpans(recorded.tracing, "w", "m")
    engine = TracedEngine(AnsweringEngine(), spans.stages)
    own, job = lease(tenant="a tenant"), Job(messages=[{"role": "user", "content": "secret"}])
    with spans.around(own):
        assert spans.before(job, own) is None
        engine.submit(Prompt("job", (), params=None))
        time.sleep(0.7)
        spans.stages("job").settled_ns = time.time_ns()
        assert spans.after(job, own, ANSWER) is ANSWER
    [attempt], [chat], [prefill], [decode] = map(recorded.spans, ("process bulk", "chat m", "prefill", "decode"))
    assert (span_id(attempt), parent_id(attempt)) == (TOKENS[0][:16], SENT)
    assert parent_id(chat) == span_id(attempt)
    assert parent_id(prefill) == parent_id(decode) == span_id(chat)
    assert prefill.end_time == decode.start_time
    assert chat.attributes is not None
    assert chat.attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert chat.attributes["gen_ai.usage.input_tokens"] == 7
    assert attempt.attributes is not None
    assert attempt.attributes["vqa.tenant"] == "a tenant"
    told = json.dumps([span.to_json() for span in (attempt, chat, prefill, decode)])
    assert "secret" not in told
    assert "crimson" not in told


def test_attempts_that_vanished_one_after_the_other_are_recorded_by_the_next_one_once(recorded: Recorded) -> None:
    spans = AttemptSpans(recorded.tracing, "w3", "m")
    own = lease(3, history=(lost(1), lost(2)))
    error = EngineError("again")
    with pytest.raises(Delayed), spans.around(own):
        raise Delayed(error, 1.0)
    first, second, third = sorted(recorded.spans("process bulk"), key=span_id)
    assert [span_id(each) for each in (first, second, third)] == [token[:16] for token in TOKENS]
    assert [f"{link.context.span_id:016x}" for link in third.links] == [TOKENS[0][:16], TOKENS[1][:16]]
    assert [f"{link.context.span_id:016x}" for link in second.links] == [TOKENS[0][:16]]
    assert third.attributes is not None
    assert (third.attributes["vqa.outcome"], third.attributes["error.type"]) == ("retried", error.code())

    # it has told, so the attempt after it tells of nobody else
    later = Recorded()
    told = AttemptRecord(3, "w3", NOW - 100, NOW, "EngineError: again", TOKENS[2])
    with AttemptSpans(later.tracing, "w4", "m").around(
        replace(own, token="f" * 32, header=replace(own.header, history=(lost(1), lost(2), told)))
    ):
        pass
    assert len(later.spans("process bulk")) == 1
    later.provider.shutdown()


def test_the_last_attempt_of_a_job_that_is_given_up_is_recorded_by_whoever_closes_it(recorded: Recorded) -> None:
    header = replace(lease(3, history=(lost(1), lost(2))).header, alone=True)
    record_closed(recorded.tracing, "job", header, Clock.from_redis(NOW), JobGivenUp("worker_lost"))
    assert len(recorded.spans("process bulk")) == 3
    [settled] = recorded.spans("settle bulk")
    assert parent_id(settled) == SENT


def test_an_attempt_after_which_the_job_is_given_up_tells_its_own_error(recorded: Recorded) -> None:
    error = EngineError("again")
    with pytest.raises(JobGivenUp), AttemptSpans(recorded.tracing, "w", "m").around(lease()):
        raise JobGivenUp("attempts used up") from error
    [attempt] = recorded.spans("process bulk")
    assert attempt.attributes is not None
    assert (attempt.attributes["vqa.outcome"], attempt.attributes["error.type"]) == ("dead_letter", error.code())


def test_attempts_of_a_job_without_a_trace_share_one(recorded: Recorded) -> None:
    spans = AttemptSpans(recorded.tracing, "w", "m")
    for attempt, history in ((1, ()), (2, (lost(1, "EngineError: why"),))):
        with spans.around(lease(attempt, None, history=history)):
            pass
    first, second = recorded.spans("process bulk")
    assert first.context is not None
    assert second.context is not None
    assert first.context.trace_id == second.context.trace_id
    assert first.parent is second.parent is None
    assert [link.context.span_id for link in second.links] == [first.context.span_id]


@pytest.mark.parametrize("token", ["no hexadecimal digits", "0" * 32, 5, ["a"]])
def test_an_attempt_with_a_damaged_token_has_no_span(recorded: Recorded, token: Any) -> None:
    damaged = replace(lost(1), token=token, taken=1e300)
    with AttemptSpans(recorded.tracing, "w", "m").around(lease(2, history=(damaged,))):
        pass
    [attempt] = recorded.spans("process bulk")
    assert not attempt.links


def test_a_time_that_is_damaged_is_a_time(recorded: Recorded) -> None:
    for far in (1e300, -1e300):
        assert 0 < Clock.from_redis(NOW).ns(far) < 2**63


def test_a_trace_that_is_not_sampled_costs_no_spans(recorded: Recorded) -> None:
    with AttemptSpans(recorded.tracing, "w", "m").around(lease(trace=f"00-{TRACE_ID}-{SENT}-00", history=(lost(1),))):
        pass
    assert recorded.spans("process bulk") == recorded.spans("queue bulk") == []


def test_a_process_that_ends_tells_of_the_attempts_that_it_gives_back(recorded: Recorded) -> None:
    spans = AttemptSpans(recorded.tracing, "w", "m")
    with spans.around(lease()):
        spans.end_all(EngineError("the engine crashed"))
        [attempt] = recorded.spans("process bulk")
    assert not attempt.status.is_ok
    assert len(recorded.spans("process bulk")) == 1
