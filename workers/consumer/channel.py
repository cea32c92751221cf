# mypy: disallow-untyped-calls=False
"""kombu's Redis channel for workers: no message and no refusal by Redis ends the worker.

Plain kombu hands Celery every message as it was popped. And when Redis refuses a pop, the write of a message's copy or
an acknowledgement (a replica after a failover, no memory, no disk, no right), Celery exits; it reconnects only after a
lost connection.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import Any, cast

from celery.worker.state import maybe_shutdown
from kombu.transport import redis as plain
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis import Redis
from redis.exceptions import OutOfMemoryError, RedisError

from vqa.celery import BODY
from vqa.ledger.damage import Damage
from vqa.redis.connection import REDIS_ERRORS
from workers.consumer import qos
from workers.consumer.intake import Intake
from workers.consumer.json_limits import broadcast_flaw
from workers.consumer.lanes import PARTIAL_POP_S, Lanes
from workers.consumer.qos import CONNECTION_LOST, raw_message
from workers.consumer.sanitize import MalformedMessage

log = logging.getLogger(__name__)

#: seconds after which the reply to a pop is overdue, on top of the time that it may block
_POP_LATE_S = 3.0

#: routing key, pattern and queue
_BINDING_PARTS = 3


class Channel(plain.Channel):
    """Pops messages through an Intake."""

    QoS = qos.QoS
    intake: Intake
    _shared: Redis | None = None
    #: the connection of the pop in progress
    _in_poll: Any = None
    _brpop_sent_at: Any = None
    #: messages that it asks for
    _asked = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # set here, since the transport option `queue_order_strategy` would apply to producers, too
        self._queue_cycle = Lanes(self.qos, self.intake.reserve)

    def _connparams(self, *args: Any, **kwargs: Any) -> Any:
        # Celery closes a lost connection twice. The first time may leave a channel open, and without this check the
        # second would end the worker with an AttributeError
        if self.connection is None or self.connection.client is None:
            raise ConnectionError("the channel's connection is closed")
        return super()._connparams(*args, **kwargs)

    def _create_client(self, asynchronous: bool = False) -> Redis:
        if asynchronous:
            client: Redis = super()._create_client(asynchronous)
            return client
        # kombu creates a client for each command, which takes longer than the command; clients are thread-safe
        if self._shared is None or self._shared.connection_pool is not self.pool:
            self._shared = super()._create_client()
        return self._shared

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Start a pop; in place of kombu's BRPOP one of several messages, where there are several."""
        if self.intake.paused or not self._return_held() or self.intake.stopped:
            return
        lanes = self._queue_cycle
        if not (queues := lanes.consume(len(self.active_queues))):
            return
        block_s = PARTIAL_POP_S if lanes.skips_lists else timeout or self.brpop_timeout
        keys = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in queues]
        self._asked = lanes.count
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        self._in_poll.send_command("BLMPOP", block_s, len(keys), *keys, "RIGHT", "COUNT", self._asked)

    def _return_held(self) -> bool:
        if not self.intake.held:
            return True
        try:
            with self.conn_or_acquire() as client:
                self.intake.return_held(client)
        except REDIS_ERRORS as error:
            self.pause_after(error)
            return False
        return True

    def pause_after(self, error: BaseException) -> None:
        """Pop nothing for a moment, and reconnect: the address may lead to a new master by then."""
        self.intake.pause_after(error)
        if self._pool is not None:
            self._pool.disconnect()

    def _brpop_read(self, **_: Any) -> bool:
        try:
            if not (popped := self._read_popped()):
                self._queue_cycle.found(self._asked, 0)
                raise Empty
            self._deliver_popped(popped[0].decode().partition(self.sep)[0], popped[1])
        except CONNECTION_LOST:
            raise
        except RedisError as error:
            self.pause_after(error)
            self.client.connection.disconnect()
            raise Empty from None
        return True

    def _read_popped(self) -> tuple[bytes, list[bytes]] | None:
        try:
            return cast(tuple[bytes, list[bytes]] | None, self.client.connection.read_response())
        except CONNECTION_LOST:
            self.client.connection.disconnect()
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _deliver_popped(self, queue: str, messages: list[bytes]) -> None:
        """Deliver messages in order; those behind one that raises an error return to their list."""
        left, all_wake_ups = messages[::-1], True
        try:
            while left and not self.intake.stopped:
                message = self.intake.receive(queue, left.pop())
                if message is not None:
                    payload = loads(message.decode())
                    all_wake_ups &= payload["body"] == BODY
                    self._queue_cycle.rotate(queue)
                    self.connection._deliver(payload, queue)
        finally:
            # of messages of other apps there is no copy before they are delivered, so they are popped one at a time
            self._queue_cycle.found(self._asked, len(messages) * all_wake_ups)
            for message in left:
                self.intake.hold(queue, message)
        if self.intake.stopped:
            self._return_held()

    def basic_consume(self, queue: str, no_ack: bool, callback: Callable[[Any], Any], *args: Any, **kwargs: Any) -> Any:
        """Consume; an error that escapes the callback ends the message, not the worker."""
        guarded = callback if no_ack else partial(self._deliver, callback)
        return super().basic_consume(queue, no_ack, guarded, *args, **kwargs)

    def _deliver(self, callback: Callable[[Any], Any], message: Any) -> Any:
        try:
            return callback(message)
        except CONNECTION_LOST:
            raise
        except RedisError as error:
            self.pause_after(error)
            self.basic_reject(message.delivery_tag, requeue=True)
        except Exception as error:
            id, queue = message.headers["id"], message.delivery_info["routing_key"]
            log.error("delivering the message of job %s failed: %s at %s", id, type(error).__name__, _location(error))
            malformed = MalformedMessage(f"the worker failed on it with {type(error).__name__}", id)
            self.intake.dead_letter_message(raw_message(message), queue, malformed)
            self.basic_ack(message.delivery_tag)

    def _handle_message(self, client: Any, response: Any) -> Any:
        payload = super()._handle_message(client, response)
        if bytes_to_str(payload["type"]).endswith("message") and (flaw := broadcast_flaw(payload["data"])):
            log.warning("dropped a broadcast message: %s", flaw)
            # kombu skips a message without data
            payload["data"] = None
        return payload

    def _deliver_fanout_message(self, message: Any, exchange: str) -> bool:
        try:
            return bool(super()._deliver_fanout_message(message, exchange))
        except CONNECTION_LOST:
            raise
        except RedisError as error:
            self.pause_after(error)
        except Exception as error:
            log.warning("dropped a broadcast message that cannot be read: %s", type(error).__name__)
        return True

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        """Return an exchange's bindings, without those that another program has damaged."""
        return [binding for binding in super().get_table(exchange) if len(binding) == _BINDING_PARTS]

    def queue_declare(self, *args: Any, **kwargs: Any) -> Any:
        """Declare a queue, waiting while Redis refuses; called while a connection is made."""
        return self._retry_refused(super().queue_declare, *args, **kwargs)

    def queue_bind(self, *args: Any, **kwargs: Any) -> None:
        self._retry_refused(super().queue_bind, *args, **kwargs)

    def _retry_refused(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        while True:
            try:
                return call(*args, **kwargs)
            except CONNECTION_LOST:
                raise
            except RedisError as error:
                self.pause_after(error)
                self._mend()
            self.intake.wait()
            # raises if Celery was told to stop meanwhile
            maybe_shutdown()

    def _mend(self) -> None:
        # a worker's janitor starts only once it has connected, and may be the only one
        try:
            with self.conn_or_acquire() as client:
                Damage(client).mend()
        except REDIS_ERRORS as error:
            log.warning("damaged keys are not set aside: %s", type(error).__name__)

    def maybe_refresh_binding_expiry(self) -> None:
        """Refresh this channel's bindings in Redis; a full Redis keeps the old ones. Called once a second."""
        self._end_overdue_pop()
        try:
            super().maybe_refresh_binding_expiry()
        except CONNECTION_LOST:
            raise
        except OutOfMemoryError:
            pass
        except RedisError as error:
            self.pause_after(error)

    def _end_overdue_pop(self) -> None:
        """Reconnect if a pop lasts too long: when Redis's clock is set back, it blocks for that time on top.

        It may leave out lists, which nothing would be taken from meanwhile. A message that Redis pops just then is
        published again by the janitor.
        """
        connection: Any = self._in_poll
        overdue = time.monotonic() - (self._brpop_sent_at or 0) > self.brpop_timeout + _POP_LATE_S
        if connection and connection._sock and overdue and not plain._socket_readable(connection._sock):
            connection.disconnect()


def _location(error: Exception) -> str:
    # no traceback and no message: both may quote the user's text
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}"
