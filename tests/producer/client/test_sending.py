"""Jobs carry the trace of the program that submits them, if it traces."""

import pytest
from redis import Redis

from producer import Client, ImageMissing, Job
from tests.producer.conftest import MakeJob
from tests.tracing import Recorded
from vqa.ledger.ledger import Ledger
from vqa.tracing.traceparent import Traceparent


def question() -> Job:
    return Job(messages=[{"role": "user", "content": "why?"}])


def traces(redis: Redis, *ids: str) -> list[Traceparent | None]:
    headers = Ledger(redis).headers(ids)
    return [Traceparent.parse(headers[id].trace) for id in ids]


def test_a_job_is_sent_within_the_span_of_its_caller(client: Client, redis: Redis, recorded: Recorded) -> None:
    with recorded.provider.get_tracer("program").start_as_current_span("request") as request:
        id = client.submit(question())
    [sent] = recorded.spans("send interactive")
    assert sent.parent is not None
    assert sent.parent.span_id == request.get_span_context().span_id
    [trace] = traces(redis, id)
    assert trace is not None
    assert sent.context is not None
    assert (int(trace.trace_id, 16), int(trace.span_id, 16)) == (sent.context.trace_id, sent.context.span_id)
    assert sent.attributes is not None
    assert (sent.attributes["messaging.message.id"], sent.attributes["vqa.verdict"]) == (id, "accepted")


def test_many_jobs_have_a_trace_each(client: Client, redis: Redis, recorded: Recorded) -> None:
    with recorded.provider.get_tracer("program").start_as_current_span("request"):
        ids = client.submit_many([question(), question()])
    found = {trace.trace_id for trace in traces(redis, *ids) if trace}
    assert len(found) == 2
    assert [span.parent for span in recorded.spans("send interactive")] == [None, None]


def test_a_job_that_the_ledger_knows_already_keeps_its_first_trace(
    client: Client, redis: Redis, recorded: Recorded
) -> None:
    job = question()
    client.submit(job)
    before = traces(redis, job.id)
    client.submit(job)
    assert traces(redis, job.id) == before
    verdicts = [span.attributes["vqa.verdict"] for span in recorded.spans("send interactive") if span.attributes]
    assert verdicts == ["accepted", "open"]


def test_an_image_that_is_missing_fails_the_span(client: Client, recorded: Recorded) -> None:
    with pytest.raises(ImageMissing):
        client.submit(Job(messages=[{"role": "user", "content": [{"type": "image", "image": "sha256:" + "0" * 64}]}]))
    [sent] = recorded.spans("send interactive")
    assert sent.attributes is not None
    assert sent.attributes["error.type"] == "image_missing"


def test_a_job_cancelled_without_a_lease_is_closed_in_its_trace(client: Client, recorded: Recorded) -> None:
    id = client.submit(question())
    assert client.cancel(id)
    [sent], [settled] = recorded.spans("send interactive"), recorded.spans("settle interactive")
    assert settled.parent is not None
    assert sent.context is not None
    assert settled.parent.span_id == sent.context.span_id
    assert settled.attributes is not None
    assert settled.attributes["error.type"] == "cancelled"


def test_a_program_that_does_not_trace_gives_its_jobs_no_trace(client: Client, redis: Redis, question: MakeJob) -> None:
    assert traces(redis, client.submit(question())) == [None]
