"""Each attempt to deliver an event is a span in the trace of the request that asked for the webhook."""

from opentelemetry.sdk.trace import ReadableSpan
from redis import Redis

from producer.demo.redis_server import free_port
from producer.gateway.webhooks.records import LATE_PREFIX
from tests.producer.gateway.webhooks.conftest import Process, Rounds, due_now
from tests.producer.gateway.webhooks.receiver import Receiver, status
from tests.tracing import Recorded

TRACE_ID, REQUEST = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACE = f"00-{TRACE_ID}-{REQUEST}-01"


async def make_due(process: Process, url: str, id: str = "job-1", trace: str | None = TRACE) -> None:
    """A webhook whose job or batch has ended."""
    await process.records.watch(id, url, "", "", trace=trace)
    await process.records.ended(id, "vqa.job.answered", '{"type":"vqa.job.answered"}')


def spans(recorded: Recorded) -> list[ReadableSpan]:
    return [*recorded.spans("deliver webhook")]


def trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def span_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def links(span: ReadableSpan) -> list[str]:
    assert {f"{link.context.trace_id:032x}" for link in span.links} <= {trace_id(span)}
    return [f"{link.context.span_id:016x}" for link in span.links]


def test_attempts_are_in_the_trace_of_the_request_and_linked_to_earlier_ones(
    rounds: Rounds, receiver: Receiver, redis: Redis, recorded: Recorded
) -> None:
    async def body(process: Process) -> None:
        receiver.answers = [status(500), status(302, Location="/elsewhere")]
        await make_due(process, receiver.url)
        for _ in range(3):
            await process.deliver()
            due_now(redis)

    rounds(body)
    first, second, third = spans(recorded)
    assert {trace_id(span) for span in (first, second, third)} == {TRACE_ID}
    assert {f"{span.parent.span_id:016x}" if span.parent else "" for span in (first, second, third)} == {REQUEST}
    assert (links(first), links(second), links(third)) == (
        [],
        [span_id(first)],
        [span_id(first), span_id(second)],
    )
    assert {span.kind.name for span in (first, second, third)} == {"CLIENT"}
    told = [dict(span.attributes or {}) for span in (first, second, third)]
    assert [each.get("error.type") for each in told] == ["500", "302", None]
    event = receiver.received[0].id
    assert told[2] == {
        "http.request.method": "POST",
        "http.response.status_code": 204,
        "server.address": "127.0.0.1",
        "messaging.message.id": "job-1",
        "vqa.webhook.event": event,
        "vqa.webhook.type": "vqa.job.answered",
        "vqa.attempt": 3,
    }


def test_a_span_tells_nothing_of_the_url_but_its_host(rounds: Rounds, receiver: Receiver, recorded: Recorded) -> None:
    async def body(process: Process) -> None:
        await make_due(process, f"{receiver.url}/a-secret-path?token=a-secret-word")
        await make_due(process, f"http://127.0.0.1:{free_port()}/a-secret-path?token=a-secret-word", "job-2")
        await process.deliver()

    rounds(body)
    assert len(receiver.received) == 1
    failed = [span for span in spans(recorded) if not span.status.is_ok]
    assert [(span.attributes or {})["error.type"] for span in failed] == ["ConnectError"]
    text = "".join(span.to_json() for span in spans(recorded))
    assert "job-2" in text
    assert "secret" not in text


def test_a_webhook_without_a_trace_has_one_for_each_event(
    rounds: Rounds, receiver: Receiver, redis: Redis, recorded: Recorded
) -> None:
    async def body(process: Process) -> None:
        receiver.answers = [status(500)]
        await make_due(process, receiver.url, trace=None)
        await process.deliver()
        due_now(redis)
        await make_due(process, receiver.url, "job-2", trace=None)
        await process.deliver()

    rounds(body)
    first, again, other = sorted(spans(recorded), key=lambda span: str((span.attributes or {})["messaging.message.id"]))
    assert first.parent is again.parent is other.parent is None
    assert trace_id(first) == trace_id(again) != trace_id(other)
    assert links(again) == [span_id(first)]


def test_both_events_of_a_batch_are_in_its_trace(
    rounds: Rounds, receiver: Receiver, redis: Redis, recorded: Recorded
) -> None:
    async def body(process: Process) -> None:
        await process.records.watch("batch_1", receiver.url, "", "", late=True, trace=TRACE)
        await process.records.late("batch_1", "evt_late", "vqa.batch.late", "{}")
        await process.records.ended("batch_1", "batch.completed", "{}")
        await process.deliver()

    rounds(body)
    assert redis.exists(f"vqa:webhook:{LATE_PREFIX}batch_1")
    late, ended = sorted(
        spans(recorded), key=lambda span: (span.attributes or {})["vqa.webhook.type"] == "batch.completed"
    )
    assert trace_id(late) == trace_id(ended) == TRACE_ID
    assert span_id(late) != span_id(ended)
    assert {(span.attributes or {})["vqa.batch.id"] for span in (late, ended)} == {"batch_1"}


def test_an_attempt_of_a_trace_that_is_not_sampled_is_not_recorded(
    rounds: Rounds, receiver: Receiver, recorded: Recorded
) -> None:
    async def body(process: Process) -> None:
        await make_due(process, receiver.url, trace=f"00-{TRACE_ID}-{REQUEST}-00")
        await process.deliver()

    rounds(body)
    assert len(receiver.received) == 1
    assert spans(recorded) == []
