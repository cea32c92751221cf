"""Answers read while they are generated: what a caller of the synchronous client sees."""

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from producer import (
    AnswerStream,
    Cancelled,
    Client,
    DeadlineExceeded,
    InvalidJob,
    Job,
    PromptTooLong,
    QueueFull,
    QueueUnavailable,
    TextPiece,
)
from tests.producer.client.streaming import write
from tests.producer.client.test_forks import fork, status
from tests.producer.conftest import MakeJob, PlayedWorker, answer, wait_until
from tests.redis_server import RedisServer
from vqa.ledger.commands import entry_key
from vqa.ledger.text_stream import stream_key
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def state(client: Client, id: str) -> str:
    found = client.states([id])[id]
    return "cancelled" if (found.error or "").startswith("Cancelled") else found.state


def test_text_is_read_as_it_is_written_and_then_the_answer_is_there(
    client: Client, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    with client.stream(question()) as stream:
        lease = worker.take(stream.id)
        write(redis, lease, 0, "a ")
        assert next(stream) == TextPiece("a ", 1)
        assert stream.answer is None
        write(redis, lease, 2, "ca")
        assert next(stream) == TextPiece("ca", 1)
        worker.close(stream.id, answer(stream.id, "a cat"))
        assert list(stream) == [TextPiece("t", 1)]
        assert list(stream) == []
    assert stream.answer == client.answer(stream.id)
    assert stream.answer is not None
    assert stream.answer.text == "a cat"
    assert not redis.exists(stream_key(stream.id))


def test_text_that_is_not_announced_is_found_by_polling(
    client: Client, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    with client.stream(question()) as stream:
        write(redis, worker.take(stream.id), 0, "a ", announce=False)
        assert next(stream).text == "a "
        redis.xadd(stream_key(stream.id), {"damaged": "entry"})
        worker.close(stream.id, answer(stream.id, "a cat"))
        assert next(stream).text == "cat"


def test_after_a_lost_worker_the_text_begins_anew(
    client: Client, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    with client.stream(question()) as stream:
        lost = worker.take(stream.id)
        write(redis, lost, 0, "a ca")
        assert next(stream).text == "a ca"
        assert worker.ledger.retry(stream.id, lost.token, error="EngineError: lost", charge="lost")
        second = worker.take(stream.id)
        write(redis, second, 0, "the ")
        # it does not know yet that it is lost
        write(redis, lost, 4, "t")
        assert next(stream) == TextPiece("the ", 2, restarted=True)
        worker.close(stream.id, answer(stream.id, "the dog").model_copy(update={"attempt": 2}))
        assert list(stream) == [TextPiece("dog", 2)]


def test_an_attempt_that_does_not_count_is_not_mistaken_for_the_next(
    client: Client, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    with client.stream(question()) as stream:
        first = worker.take(stream.id)
        write(redis, first, 0, "a ca")
        assert next(stream).text == "a ca"
        # given back by a worker that shuts down, a moment later
        time.sleep(0.01)
        assert worker.ledger.retry(stream.id, first.token, charge="0")
        second = worker.take(stream.id)
        assert second.header.attempt == first.header.attempt == 1
        write(redis, second, 0, "the dog")
        assert next(stream) == TextPiece("the dog", 1, restarted=True)


def test_the_error_of_the_job_is_raised_and_ends_the_stream(
    client: Client, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    stream = client.stream(question())
    lease = worker.take(stream.id)
    write(redis, lease, 0, "a ca")
    assert next(stream).text == "a ca"
    worker.close(stream.id, PromptTooLong("too many tokens"))
    with pytest.raises(PromptTooLong, match="too many tokens"):
        next(stream)
    assert list(stream) == []
    assert stream.answer is None
    stream.close()
    assert state(client, stream.id) == "failed"


def test_a_job_without_text_gives_its_answer_as_one_piece(
    client: Client, worker: PlayedWorker, question: MakeJob
) -> None:
    job = question()
    client.submit(job)
    worker.close(job.id, answer(job.id, "a cat"))
    # it had ended before, and was not streamed
    assert list(client.stream(job)) == [TextPiece("a cat", 1)]


def test_an_empty_answer_has_no_pieces(client: Client, worker: PlayedWorker, question: MakeJob) -> None:
    stream = client.stream(question())
    worker.close(stream.id, answer(stream.id, ""))
    assert list(stream) == []
    assert stream.answer == client.answer(stream.id)


def test_two_may_stream_one_job(client: Client, worker: PlayedWorker, redis: Redis, question: MakeJob) -> None:
    job = question()
    with client.stream(job) as one:
        lease = worker.take(job.id)
        write(redis, lease, 0, "a ")
        assert next(one).text == "a "
        # from the beginning, although the other has read that
        with client.stream(job) as other:
            assert next(other).text == "a "
            write(redis, lease, 2, "cat")
            assert (next(one).text, next(other).text) == ("cat", "cat")
            worker.close(job.id, answer(job.id, "a cat"))
            assert list(one) == list(other) == []


def test_a_stream_that_another_program_has_overwritten_costs_the_pieces_and_not_the_answer(
    client: Client, worker: PlayedWorker, redis: Redis, question: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    with client.stream(question()) as stream:
        redis.set(stream_key(stream.id), "a secret")
        worker.close(stream.id, answer(stream.id, "a cat"))
        assert next(stream).text == "a cat"
    with client.stream(question()) as stream:
        redis.set(stream_key(stream.id), "a secret")
        closing = threading.Timer(1, worker.close, [stream.id, answer(stream.id, "a cat")])
        closing.start()
        assert next(stream).text == "a cat"
    closing.join()
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "WRONGTYPE" in record.getMessage()


def test_the_trace_goes_with_the_job(client: Client, worker: PlayedWorker, question: MakeJob) -> None:
    streamed, plain = client.stream(question(), trace=TRACE), question()
    client.submit(plain, trace=TRACE)
    assert worker.take(streamed.id).header.trace == worker.take(plain.id).header.trace == TRACE
    assert not worker.take(plain.id).header.stream
    streamed.close()


@pytest.mark.parametrize("trace", ["", "00-abc", TRACE.upper(), TRACE + "\n", TRACE + "-" + "x" * 200])
def test_what_is_no_trace_is_refused(client: Client, redis: Redis, question: MakeJob, trace: str) -> None:
    job = question()
    for call in (client.stream, client.submit):
        with pytest.raises(InvalidJob, match="traceparent"):
            call(job, trace=trace)
    assert not redis.exists(entry_key(job.id))


def test_a_full_queue_is_said_before_the_first_piece(redis_url: str, redis: Redis, question: MakeJob) -> None:
    with Client(redis_url=redis_url, queue_most=1) as client, client.stream(question()), pytest.raises(QueueFull):
        client.stream(question())


def _break(client: Client, job: Job) -> None:
    for _ in client.stream(job):
        break


def _close(client: Client, job: Job) -> None:
    stream = client.stream(job)
    next(stream)
    stream.close()
    # nothing more to come
    assert list(stream) == []


def _raise(client: Client, job: Job) -> None:
    with pytest.raises(LookupError), client.stream(job) as stream:
        raise LookupError(next(stream))


def _return(client: Client, job: Job) -> None:
    with client.stream(job) as stream:
        next(stream)


def _never_read(client: Client, job: Job) -> None:
    client.stream(job)


def _in_a_circle(client: Client, job: Job) -> None:
    circle: list[object] = [client.stream(job)]
    circle.append(circle)
    del circle
    gc.collect()


@pytest.mark.parametrize("leave", [_break, _close, _raise, _return, _never_read, _in_a_circle])
def test_leaving_early_cancels_the_job(
    client: Client,
    worker: PlayedWorker,
    redis: Redis,
    question: MakeJob,
    leave: Callable[[Client, Job], None],
) -> None:
    job = question()

    def work() -> None:
        wait_until(lambda: redis.exists(entry_key(job.id)), "the job is submitted")
        write(redis, worker.take(job.id), 0, "a ")

    working = threading.Thread(target=work)
    if leave not in (_never_read, _in_a_circle):
        working.start()
    leave(client, job)
    wait_until(lambda: state(client, job.id) == "cancelled", "it is cancelled")
    if working.ident:
        working.join()
    assert not client._replies._waiters


def test_a_client_that_is_closed_cancels_first_what_was_left(
    queue_settings: QueueSettings, client: Client, question: MakeJob
) -> None:
    job = question()
    with Client(queue_settings) as own:
        own.stream(job)
    assert state(client, job.id) == "cancelled"


def test_a_stream_that_ended_is_left_without_a_word(client: Client, worker: PlayedWorker, question: MakeJob) -> None:
    with client.stream(question()) as stream:
        worker.close(stream.id, answer(stream.id, "a cat"))
        assert len(list(stream)) == 1
        # opened again under the same id, by somebody else
        client._queue.forget([stream.id])
        client.submit(question(id=stream.id))
    del stream
    gc.collect()
    assert sum(client.counts()["interactive"].values()) + sum(client.counts()["bulk"].values()) == 1


def test_a_wait_in_another_thread_ends_when_the_client_is_closed(
    queue_settings: QueueSettings, client: Client, question: MakeJob
) -> None:
    own = Client(queue_settings)
    stream = own.stream(question())
    threading.Timer(0.2, own.close).start()
    with pytest.raises(RuntimeError, match="closed"):
        next(stream)
    # as with other waits, the job goes on
    assert state(client, stream.id) == "queued"


def test_another_thread_may_close_a_stream_that_is_read(client: Client, question: MakeJob) -> None:
    stream, began = client.stream(question()), time.monotonic()
    closing = threading.Timer(0.2, stream.close)
    closing.start()
    assert list(stream) == []
    assert time.monotonic() - began < 10
    closing.join()
    assert state(client, stream.id) == "cancelled"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_in_a_forked_child_a_stream_is_the_parents(
    client: Client, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    stream = client.stream(question())
    write(redis, worker.take(stream.id), 0, "a ")
    assert next(stream).text == "a "
    streams = [stream]

    def in_child() -> None:
        with pytest.raises(RuntimeError, match="forked"):
            next(streams[0])
        streams.clear()
        gc.collect()
        # the child's own
        own = client.stream(question())
        own.close()
        assert state(client, own.id) == "cancelled"

    assert status(fork(in_child)) == 0
    assert state(client, stream.id) == "leased"
    worker.close(stream.id, answer(stream.id, "a cat"))
    assert list(stream) == [TextPiece("cat", 1)]


def test_without_a_worker_it_ends_at_the_deadline(client: Client, question: MakeJob) -> None:
    with client.stream(question(timeout_s=0.3)) as stream, pytest.raises(DeadlineExceeded):
        next(stream)


def test_a_job_cancelled_elsewhere_ends_the_stream(
    client: Client, worker: PlayedWorker, redis: Redis, question: MakeJob
) -> None:
    with client.stream(question()) as stream:
        write(redis, worker.take(stream.id), 0, "a ")
        assert next(stream).text == "a "
        assert client.cancel(stream.id)
        with pytest.raises(Cancelled):
            next(stream)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", append_only=True) as server:
        yield server


def test_a_restart_of_redis_does_not_end_a_stream(server: RedisServer, question: MakeJob) -> None:
    settings = QueueSettings(redis_url=server.url)
    with Client(settings) as client, connect(settings) as redis, client.stream(question()) as stream:
        worker = PlayedWorker(redis, settings)
        lease = worker.take(stream.id)
        write(redis, lease, 0, "a ")
        assert next(stream).text == "a "
        server.kill()
        server.start()
        write(redis, lease, 2, "c")
        assert next(stream).text == "c"
        server.kill()
        threading.Timer(0.5, server.start).start()
        # one that waits meanwhile
        closing = threading.Timer(1.5, worker.close, [stream.id, answer(stream.id, "a cat")])
        closing.start()
        assert list(stream) == [TextPiece("at", 1)]
        closing.join()


def test_a_redis_that_stays_away_ends_the_stream_and_not_the_job(server: RedisServer, question: MakeJob) -> None:
    settings = QueueSettings(redis_url=server.url, redis_timeout_s=4)
    with Client(settings) as client:
        stream = client.stream(question())
        server.kill()
        with pytest.raises(QueueUnavailable):
            next(stream)
        began = time.monotonic()
        stream.close()
        # it does not try for so long again
        assert time.monotonic() - began < 2
        server.start()
        assert state(client, stream.id) == "queued"


def test_a_stream_left_while_redis_is_away_is_told_once_and_raises_nothing(
    server: RedisServer, question: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(redis_url=server.url, redis_timeout_s=1) as client:
        stream = client.stream(question())
        server.kill()
        stream.close()
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"job {stream.id} was left and could not be cancelled" in record.getMessage()


def test_what_it_holds_is_let_go(client: Client, worker: PlayedWorker, redis: Redis, question: MakeJob) -> None:
    def read_to_the_end() -> AnswerStream:
        stream = client.stream(question())
        write(redis, worker.take(stream.id), 0, "a ")
        worker.close(stream.id, answer(stream.id, "a cat"))
        assert "".join(piece.text for piece in stream) == "a cat"
        return stream

    for _ in range(20):
        read_to_the_end()
    assert not client._replies._waiters
    assert not client._replies._waiters._streams
