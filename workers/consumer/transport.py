# mypy: disallow-untyped-calls=False
"""How a worker pops messages from Celery's lists: kombu's Redis transport, in which nothing that comes ends the worker.

As it is, kombu hands Celery whatever it popped. And what Redis answers to a pop, to its record or to an acknowledgement
(it is a replica since a failover; no memory, no disk, no right) ends the worker, where a lost connection is made anew.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from functools import cache, partial
from queue import Empty
from typing import Any

import kombu
from celery import Celery
from celery.app.amqp import AMQP
from celery.worker.state import maybe_shutdown
from kombu.transport import redis as plain
from redis import Redis
from redis.exceptions import OutOfMemoryError, RedisError

from vqa.connection import UNREACHED
from workers.consumer.intake import Aside, Intake
from workers.consumer.lanes import LEFT_OUT_S, Lanes
from workers.consumer.qos import LOST, Record, raw_of
from workers.consumer.sanitize import Malformed

log = logging.getLogger(__name__)

#: seconds between tries to connect: the first, what each adds, and the longest
_PAUSES = {"interval_start": 1, "interval_step": 1, "interval_max": 5}


class Channel(plain.Channel):
    """Takes through an intake."""

    QoS = Record
    intake: Intake
    _shared: Redis | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # not by name among the transport's options: producers have the same, and no workers' code
        self._queue_cycle = Lanes(self.qos, self.intake.reserve)

    def _connparams(self, *args: Any, **kwargs: Any) -> Any:
        # Celery closes a lost connection twice; the first time may leave a channel open, and the second would end the
        # worker with an AttributeError
        if self.connection is None or self.connection.client is None:
            raise ConnectionError("the channel's connection is closed")
        return super()._connparams(*args, **kwargs)

    def _create_client(self, asynchronous: bool = False) -> Redis:
        if asynchronous:
            client: Redis = super()._create_client(asynchronous)
            client.set_response_callback("BRPOP", self._popped)
            return client
        # kombu makes one for each command, which takes longer than the command; any thread may use it
        if self._shared is None or self._shared.connection_pool is not self.pool:
            self._shared = super()._create_client()
        return self._shared

    def _popped(self, reply: list[bytes] | None, **_: Any) -> tuple[bytes, bytes] | None:
        if not reply:
            return None
        message = self.intake.pop(reply[0].decode().partition(self.sep)[0], reply[1])
        if self.intake.stopped:
            self._put_back()
        return None if message is None else (reply[0], message)

    def _brpop_start(self, timeout: float | None = None) -> None:
        if not self.intake.shut and self._put_back() and not self.intake.stopped:
            super()._brpop_start(LEFT_OUT_S if self._queue_cycle.left_out else timeout)

    def _put_back(self) -> bool:
        if not self.intake.in_hand:
            return True
        try:
            with self.conn_or_acquire() as client:
                self.intake.put_back(client)
        except UNREACHED as error:
            self.refused(error)
            return False
        return True

    def refused(self, error: BaseException) -> None:
        """Take nothing for a moment, and go on with new connections: the address may lead to a new master by then."""
        self.intake.refused(error)
        if self._pool is not None:
            self._pool.disconnect()

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except LOST:
            raise
        except RedisError as error:
            self.refused(error)
            self.client.connection.disconnect()
            raise Empty from None

    def basic_consume(self, queue: str, no_ack: bool, callback: Callable[[Any], Any], *args: Any, **kwargs: Any) -> Any:
        """Consume; what escapes from the callback ends the message, not the worker."""
        guarded = callback if no_ack else partial(self._receive_message, callback)
        return super().basic_consume(queue, no_ack, guarded, *args, **kwargs)

    def _receive_message(self, callback: Callable[[Any], Any], message: Any) -> Any:
        try:
            return callback(message)
        except LOST:
            raise
        except RedisError as error:
            self.refused(error)
            self.basic_reject(message.delivery_tag, requeue=True)
        except Exception as error:
            id, queue = message.headers["id"], message.delivery_info["routing_key"]
            log.error("the worker failed on the message of job %s: %s at %s", id, type(error).__name__, _place(error))
            flaw = Malformed(f"the worker failed on it with {type(error).__name__}", id)
            self.intake.set_aside(raw_of(message), queue, flaw)
            self.basic_ack(message.delivery_tag)

    def _deliver_fanout_message(self, message: Any, exchange: str) -> bool:
        try:
            return bool(super()._deliver_fanout_message(message, exchange))
        except UNREACHED:
            raise
        except Exception as error:
            log.warning("a broadcast that cannot be read is dropped: %s", type(error).__name__)
            return True

    def queue_declare(self, *args: Any, **kwargs: Any) -> Any:
        """Asked for while a connection is made."""
        return self._ask(super().queue_declare, *args, **kwargs)

    def queue_bind(self, *args: Any, **kwargs: Any) -> None:
        """Asked for while a connection is made."""
        self._ask(super().queue_bind, *args, **kwargs)

    def _ask(self, ask: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        while True:
            try:
                return ask(*args, **kwargs)
            except LOST:
                raise
            except RedisError as error:
                self.refused(error)
            self.intake.wait()
            # raises where Celery was told to stop meanwhile
            maybe_shutdown()

    def maybe_refresh_binding_expiry(self) -> None:
        """Say to other channels that this one listens."""
        try:
            super().maybe_refresh_binding_expiry()
        except LOST:
            raise
        except OutOfMemoryError:
            pass
        except RedisError as error:
            self.refused(error)


def _place(error: Exception) -> str:
    # no traceback: the error's own words may be a user's
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}"


class Connection(kombu.Connection):
    """Of a worker process."""

    intake: Intake

    def get_transport_cls(self) -> Any:
        """The url's transport, guarded."""
        return _guarded(super().get_transport_cls(), self.intake)

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Try as often as it takes, more often than kombu: it ends at half a minute between two tries."""
        return super().ensure_connection(*args, **_PAUSES | kwargs)


@cache
def _guarded(transport: type[plain.Transport], intake: Intake) -> type[plain.Transport]:
    options = transport.Channel.from_transport_options
    channel = type("Channel", (Channel, transport.Channel), {"from_transport_options": options, "intake": intake})
    return type("Transport", (transport,), {"Channel": channel})


def guard(app: Celery, aside: Aside) -> Intake:
    """Let this app's connections take through an intake, which is returned. Before the first is made."""
    intake = Intake(aside)
    # not among the settings: Flower shows those, as JSON
    connection = type("Connection", (Connection,), {"intake": intake})
    app.amqp_cls = type("WorkerAMQP", (AMQP,), {"Connection": connection})
    return intake
