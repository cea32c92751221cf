"""A worker's way to Celery's lists, with a real Redis: nothing that comes from there ends it, and nothing is lost."""

import gc
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import ReadOnlyError

from tests.worker_process import StartWorker
from vqa.celery import TASK, make_app, wake
from vqa.ledger.ledger import Ledger
from vqa.settings import QueueSettings
from workers.consumer.intake import Intake
from workers.consumer.sanitize import MalformedMessage
from workers.consumer.transport import install_intake
from workers.engine.fair_share import Reserve

SECRET = "the-secret-question"
WAIT_S = 30.0


@dataclass
class Consumer:
    """What Celery's consumer is to the transport."""

    connection: Any
    intake: Intake
    messages: list[Any] = field(default_factory=list)
    dead_letters: list[tuple[bytes, str, MalformedMessage]] = field(default_factory=list)
    refuses: Exception | None = None
    fails: Exception | None = None
    #: called after each message
    then: Callable[[], None] = lambda: None

    def receive(self, message: Any) -> None:
        if self.fails is not None:
            raise self.fails
        self.messages.append(message)
        self.then()

    def keep(self, raw: bytes, queue: str, malformed: MalformedMessage) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.dead_letters.append((raw, queue, malformed))

    def drain(self, seconds: float = 0.05) -> None:
        with suppress(socket.timeout):
            self.connection.drain_events(timeout=seconds)

    def drain_until(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < until
            self.drain()

    def drain_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.drain()

    def ids(self) -> list[str]:
        return [message.headers["id"] for message in self.messages]


@pytest.fixture
def app(queue_settings: QueueSettings) -> Iterator[Celery]:
    app = make_app(queue_settings)
    yield app
    app.close()
    gc.collect()


@pytest.fixture
def consumer(app: Celery) -> Iterator[Consumer]:
    consumer = Consumer(None, Intake(lambda *_: None))
    consumer.intake = install_intake(app, consumer.keep)
    with app.connection_for_read() as connection:
        consumer.connection = connection
        with app.amqp.TaskConsumer(connection, on_message=consumer.receive):
            yield consumer


@pytest.fixture
def full(redis: Redis) -> Iterator[Callable[[bool], None]]:
    """Fill Redis up, or make room again."""
    yield lambda yes: redis.config_set("maxmemory", 1 if yes else 0)
    redis.config_set("maxmemory", 0)


@pytest.fixture
def replica(redis: Redis) -> Iterator[Callable[[bool], None]]:
    """Make Redis a replica of nobody, or a master again."""
    yield lambda yes: redis.execute_command("REPLICAOF", *(("127.0.0.1", "1") if yes else ("NO", "ONE")))
    redis.execute_command("REPLICAOF", "NO", "ONE")


def foreign(id: str) -> str:
    body = json.dumps([[{"messages": [{"role": "user", "content": SECRET}]}], {}, {}])
    return json.dumps({"content-type": "application/json", "headers": {"task": TASK, "id": id}, "body": body})


def test_a_malformed_message_becomes_a_dead_letter_and_the_next_is_delivered(
    consumer: Consumer, app: Celery, redis: Redis
) -> None:
    redis.lpush("interactive", b"\x80\x04", b"{}")
    redis.lpush("bulk", b"[]")
    wake(app, [("good", "bulk")])
    consumer.drain_until(lambda: bool(consumer.messages))
    assert consumer.ids() == ["good"]
    assert [(raw, queue) for raw, queue, _ in consumer.dead_letters] == [
        (b"\x80\x04", "interactive"),
        (b"{}", "interactive"),
        (b"[]", "bulk"),
    ]


def test_one_on_a_list_of_a_priority_is_found_too(consumer: Consumer, redis: Redis) -> None:
    redis.lpush("bulk\x06\x163", b"[]", foreign("urgent"))
    consumer.drain_until(lambda: bool(consumer.messages))
    assert [queue for _, queue, _ in consumer.dead_letters] == ["bulk"]


def test_one_that_cannot_be_kept_now_is_kept_later(consumer: Consumer, redis: Redis) -> None:
    consumer.refuses = ReadOnlyError()
    redis.lpush("bulk", b"[]")
    consumer.drain_until(lambda: not redis.llen("bulk"))
    consumer.refuses = None
    consumer.drain_until(lambda: bool(consumer.dead_letters))
    assert consumer.dead_letters[0][0] == b"[]"


def test_one_that_cannot_be_kept_at_all_holds_nobody_up(
    consumer: Consumer, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    consumer.refuses = ValueError(SECRET)
    redis.lpush("bulk", b"[]", foreign("good"))
    consumer.drain_until(lambda: bool(consumer.messages))
    assert "malformed message on bulk (it is not a JSON object) is lost" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "copy",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"[1, 2, 3]",
        b"{}",
        b'[[], "", "bulk"]',
        b'[{}, null, "bulk"]',
        b'{"__type__": "decimal", "__value__": "x"}',
    ],
)
def test_a_damaged_copy_of_a_message_is_set_aside_and_the_others_are_restored(
    copy: bytes, consumer: Consumer, redis: Redis
) -> None:
    redis.hset("unacked", mapping={"damaged": copy, "good": json.dumps([json.loads(foreign("good")), "", "bulk"])})
    redis.zadd("unacked_index", {"damaged": 1, "good": 1})
    consumer.connection.default_channel.qos.restore_visible(interval=1)
    consumer.drain_until(lambda: bool(consumer.messages))
    assert consumer.ids() == ["good"]
    assert [raw for raw, *_ in consumer.dead_letters] == [copy]
    assert not redis.hexists("unacked", "damaged")


def test_when_it_is_stopped_nothing_is_popped(consumer: Consumer, redis: Redis) -> None:
    redis.lpush("bulk", *(foreign(f"job{number}") for number in range(5)))
    consumer.drain_until(lambda: len(consumer.messages) == 2)
    consumer.intake.stop()
    consumer.drain_for(0.5)
    assert len(consumer.messages) == 2
    assert redis.llen("bulk") == 3


def test_what_is_being_popped_when_it_is_stopped_goes_back(consumer: Consumer, redis: Redis) -> None:
    redis.config_resetstat()
    # a pop waits in Redis for a tenth of a second
    consumer.drain(0.01)
    consumer.intake.stop()
    redis.lpush("bulk", foreign("job"))
    consumer.drain_for(0.3)
    assert consumer.messages == []
    assert redis.lrange("bulk", 0, -1) == [foreign("job").encode()]
    assert redis.info("commandstats")["cmdstat_rpush"]["calls"] == 1


def test_what_redis_has_no_room_to_record_is_delivered_when_it_has(
    consumer: Consumer, redis: Redis, full: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    redis.lpush("bulk", foreign("one"), foreign("two"))
    full(True)
    consumer.drain_for(2.5)
    assert consumer.messages == []
    # no more than one is held
    assert redis.llen("bulk") == 1
    assert caplog.text.count("Redis refuses commands (OutOfMemoryError") == 1
    assert SECRET not in caplog.text
    full(False)
    consumer.drain_until(lambda: len(consumer.messages) == 2)
    assert consumer.ids() == ["one", "two"]
    assert redis.hlen("unacked") == 2


def test_a_wake_up_needs_no_record_where_redis_has_no_room_for_it(
    consumer: Consumer, app: Celery, redis: Redis, full: Callable[[bool], None]
) -> None:
    wake(app, [("one", "bulk"), ("two", "bulk")])
    full(True)
    consumer.drain_until(lambda: len(consumer.messages) == 2)
    assert redis.hlen("unacked") == 0
    consumer.messages[0].ack()
    consumer.messages[1].reject(requeue=True)


def test_a_wake_up_is_nowhere_in_redis_while_a_worker_has_it(consumer: Consumer, app: Celery, redis: Redis) -> None:
    wake(app, [("one", "bulk")])
    consumer.drain_until(lambda: len(consumer.messages) == 1)
    assert list(redis.scan_iter("unacked*")) == []
    assert redis.llen("bulk") == 0
    redis.config_resetstat()
    consumer.messages[0].ack()
    assert not {"cmdstat_hdel", "cmdstat_zrem"} & redis.info("commandstats").keys()


def test_a_wake_up_that_is_put_back_is_popped_next(consumer: Consumer, app: Celery, redis: Redis) -> None:
    wake(app, [(f"job{number}", "bulk") for number in range(3)])
    consumer.drain_until(lambda: len(consumer.messages) == 1)
    consumer.messages[0].requeue()
    consumer.drain_until(lambda: len(consumer.messages) == 4)
    assert consumer.ids() == ["job0", "job0", "job1", "job2"]


def test_a_backlog_of_wake_ups_is_popped_several_at_a_time_in_order(
    consumer: Consumer, app: Celery, redis: Redis
) -> None:
    wake(app, [(f"job{number}", "bulk") for number in range(100)])
    redis.config_resetstat()
    consumer.drain_until(lambda: len(consumer.messages) == 100)
    assert consumer.ids() == [f"job{number}" for number in range(100)]
    # one at a time, then a quarter of what it has taken, then 8
    assert redis.info("commandstats")["cmdstat_blmpop"]["calls"] <= 33
    wake(app, [("last", "interactive")])
    consumer.drain_until(lambda: len(consumer.messages) == 101)


def test_the_first_messages_of_a_backlog_are_popped_one_at_a_time(consumer: Consumer, app: Celery) -> None:
    wake(app, [(f"job{number}", "bulk") for number in range(40)])
    counts = []
    for _ in range(8):
        consumer.drain(WAIT_S)
        counts.append(len(consumer.messages))
    assert counts == list(range(1, 9))


def test_after_a_pop_in_vain_the_next_takes_one(consumer: Consumer, app: Celery, redis: Redis) -> None:
    wake(app, [(f"job{number}", "bulk") for number in range(48)])
    # the last pop of these takes all that it asks for
    copies = redis.lrange("bulk", 0, 7)
    consumer.drain_until(lambda: len(consumer.messages) == 48)
    # a pop lasts a tenth of a second
    consumer.drain_for(0.3)
    redis.lpush("bulk", *copies)
    consumer.drain_until(lambda: len(consumer.messages) > 48)
    assert len(consumer.messages) == 49


def test_what_comes_behind_a_lost_connection_in_one_pop_goes_back(
    consumer: Consumer, app: Celery, redis: Redis
) -> None:
    # of 12 that it has taken, a quarter: the next pop takes 3
    wake(app, [(f"job{number}", "bulk") for number in range(15)])
    consumer.drain_until(lambda: len(consumer.messages) == 12)
    consumer.fails = ConnectionResetError()
    with pytest.raises(ConnectionResetError):
        consumer.drain_until(lambda: False)
    consumer.fails = None
    assert redis.llen("bulk") == 0
    consumer.drain_until(lambda: len(consumer.messages) == 14)
    assert consumer.ids() == [f"job{number}" for number in range(15) if number != 12]


def test_what_was_popped_at_once_goes_back_in_order_when_it_is_stopped_meanwhile(
    consumer: Consumer, app: Celery, redis: Redis
) -> None:
    # of 20 that it has taken, a quarter: the next pop takes 5
    wake(app, [(f"job{number}", "bulk") for number in range(25)])
    consumer.drain_until(lambda: len(consumer.messages) == 20)
    consumer.then = consumer.intake.stop
    consumer.drain_for(0.3)
    assert consumer.ids() == [f"job{number}" for number in range(21)]
    waiting = [json.loads(message)["headers"]["id"] for message in redis.lrange("bulk", 0, -1)]
    # the last one is popped next
    assert waiting == [f"job{number}" for number in range(24, 20, -1)]


def test_messages_of_other_apps_are_popped_one_at_a_time(consumer: Consumer, redis: Redis) -> None:
    redis.lpush("bulk", *(foreign(f"job{number}") for number in range(12)))
    redis.config_resetstat()
    consumer.drain_until(lambda: len(consumer.messages) == 12)
    assert redis.info("commandstats")["cmdstat_blmpop"]["calls"] >= 12


def test_what_nobody_began_goes_back_when_the_connection_is_closed(app: Celery, redis: Redis) -> None:
    intake = install_intake(app, lambda *_: None)
    wake(app, [("ours", "bulk")])
    redis.lpush("bulk", foreign("theirs"))
    with app.connection_for_read() as connection:
        consumer = Consumer(connection, intake)
        with app.amqp.TaskConsumer(connection, on_message=consumer.receive):
            consumer.drain_until(lambda: len(consumer.messages) == 2)
        assert redis.llen("bulk") == 0
    ids = [json.loads(message)["headers"]["id"] for message in redis.lrange("bulk", 0, -1)]
    assert sorted(ids) == ["ours", "theirs"]


def test_commands_share_a_client_until_their_pool_is_replaced(consumer: Consumer, app: Celery) -> None:
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is second
        channel._disconnect_pools()
        with channel.conn_or_acquire() as third:
            assert third is not first
            assert third.ping()


def test_bulk_is_taken_up_to_what_is_reserved_and_again_once_there_is_room(app: Celery) -> None:
    intake = install_intake(app, lambda *_: None)
    intake.reserve = Reserve(1)
    wake(app, [(f"b{number}", "bulk") for number in range(5)])
    with app.connection_for_read() as connection:
        # as Celery does for as many threads as there are
        connection.default_channel.basic_qos(0, 3, False)
        consumer = Consumer(connection, intake)
        with app.amqp.TaskConsumer(connection, on_message=consumer.receive):
            _take_turns(consumer, app)


def _take_turns(consumer: Consumer, app: Celery) -> None:
    consumer.drain_until(lambda: len(consumer.messages) == 2)
    consumer.drain_for(0.3)
    assert consumer.ids() == ["b0", "b1"]
    wake(app, [("i", "interactive")])
    consumer.drain_until(lambda: len(consumer.messages) == 3)
    assert consumer.ids()[-1] == "i"
    consumer.messages[0].ack()
    consumer.drain_for(0.3)
    assert len(consumer.messages) == 3
    consumer.messages[2].ack()
    consumer.drain_until(lambda: len(consumer.messages) == 4)
    assert consumer.ids()[-1] == "b2"


def test_settings_are_shown_as_json(app: Celery) -> None:
    install_intake(app, lambda *_: None)
    assert "polling_interval" in json.dumps(app.conf.broker_transport_options)


def test_a_full_redis_takes_acknowledgements(consumer: Consumer, redis: Redis, full: Callable[[bool], None]) -> None:
    redis.lpush("bulk", foreign("one"))
    consumer.drain_until(lambda: bool(consumer.messages))
    full(True)
    consumer.messages[0].ack()
    assert (redis.hlen("unacked"), redis.zcard("unacked_index")) == (0, 0)


def test_a_replica_ends_nothing(
    consumer: Consumer, redis: Redis, replica: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    redis.lpush("bulk", *(foreign(f"job{number}") for number in range(3)))
    consumer.drain_until(lambda: len(consumer.messages) == 2)
    replica(True)
    first, second = consumer.messages
    first.ack()
    second.requeue()
    consumer.drain_for(1.5)
    assert len(consumer.messages) == 2
    replica(False)
    consumer.drain_until(lambda: len(consumer.messages) == 4)
    assert sorted(consumer.ids()[2:]) == sorted(["job2", "job1"])
    assert caplog.text.count("Redis refuses commands (ReadOnlyError") == 1


def test_a_message_that_the_worker_fails_on_becomes_a_dead_letter(
    consumer: Consumer, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis.lpush("interactive", foreign("unlucky"))
    consumer.fails = RuntimeError(SECRET)
    consumer.drain_until(lambda: bool(consumer.dead_letters))
    consumer.fails = None
    redis.lpush("bulk", foreign("good"))
    consumer.drain_until(lambda: bool(consumer.messages))
    [(raw, queue, malformed)] = consumer.dead_letters
    assert json.loads(raw)["headers"]["id"] == "unlucky"
    assert (queue, malformed) == (
        "interactive",
        MalformedMessage("the worker failed on it with RuntimeError", "unlucky"),
    )
    assert redis.hlen("unacked") == 1
    assert SECRET not in caplog.text


def test_what_is_put_back_is_popped_next(consumer: Consumer, redis: Redis) -> None:
    redis.lpush("bulk", *(foreign(f"job{number}") for number in range(5)))
    consumer.drain_until(lambda: len(consumer.messages) == 1)
    consumer.messages[0].requeue()
    consumer.drain_until(lambda: len(consumer.messages) == 2)
    assert consumer.ids() == ["job0", "job0"]
    first, again = consumer.messages
    assert first.delivery_tag != again.delivery_tag


def test_a_lost_connection_is_celerys_to_mend(consumer: Consumer, redis: Redis) -> None:
    consumer.fails = ConnectionResetError()
    redis.lpush("bulk", foreign("job"))
    with pytest.raises(ConnectionResetError):
        consumer.drain_until(lambda: False)
    assert consumer.dead_letters == []


def test_a_worker_that_must_connect_to_a_full_redis_goes_on_when_there_is_room(
    redis: Redis, queue_settings: QueueSettings, start_worker: StartWorker, full: Callable[[bool], None], app: Celery
) -> None:
    worker = start_worker()

    def wait_until(done: Callable[[], bool]) -> None:
        until = time.monotonic() + WAIT_S
        while not done():
            assert worker.process.poll() is None, worker.log.read_text()
            assert time.monotonic() < until, worker.log.read_text()
            time.sleep(0.01)

    wait_until(lambda: any(client["cmd"] == "blmpop" for client in redis.client_list()))
    full(True)
    redis.client_kill_filter(_type="normal", skipme=True)
    wait_until(lambda: worker.log.read_text().count("Connected to") == 2)
    wait_until(lambda: "Redis refuses commands (OutOfMemoryError" in worker.log.read_text())
    full(False)
    ledger = Ledger(redis, queue_settings.limits)
    ledger.accept("after", "bulk", b'{"messages":[{"role":"user","content":"?"}]}', 60)
    wake(app, [("after", "bulk")])
    wait_until(lambda: bool(redis.exists("celery-task-meta-after")))
    assert "Traceback" not in worker.log.read_text()
