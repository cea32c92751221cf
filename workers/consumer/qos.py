# mypy: disallow-untyped-calls=False
"""kombu's QoS, the messages that were delivered and not acknowledged yet, with no copy of wake-ups in Redis.

kombu stores each delivered message in Redis until it is acknowledged, and restores it after an hour (the visibility
timeout). That holds for the messages of other apps. A wake-up needs no copy: its job is in the ledger, and if its
message is lost, the janitor publishes another long before the hour is over. Storing and deleting the copies took a
worker longer than all calls to the ledger.
"""

from __future__ import annotations

from typing import Any, Protocol

from kombu.transport import redis as plain
from kombu.transport import virtual
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from vqa.celery import BODY, DEFAULT_QUEUE
from vqa.redis.connection import REDIS_ERRORS
from vqa.routing import lane_of
from workers.consumer.intake import Intake
from workers.consumer.sanitize import MalformedMessage

#: errors after which Celery reconnects
CONNECTION_LOST = (ConnectionError, TimeoutError, OSError)

#: a wake-up's body after kombu has decoded it
_WAKE_UP = BODY.encode()


class Channel(Protocol):
    """What a QoS needs of its kombu channel."""

    intake: Intake

    def conn_or_acquire(self, client: Any = None) -> Any: ...

    def pause_after(self, error: BaseException) -> None: ...


class QoS(plain.QoS):
    """kombu's QoS; a write that Redis refuses does not stop the worker."""

    channel: Channel

    _prefetch_count = 0

    @property
    def prefetch_count(self) -> int:
        """Messages that this worker may hold; 0 for no limit. An engine with changing places may allow fewer."""
        most_held = self.channel.intake.most_held
        # 0 would be no limit; `can_consume` knows better
        return self._prefetch_count if most_held is None else max(1, min(self._prefetch_count, most_held()))

    @prefetch_count.setter
    def prefetch_count(self, count: int) -> None:
        self._prefetch_count = count

    def can_consume(self) -> bool:
        """Whether another message may be popped; asked before each pop, ten times a second at least."""
        most_held = self.channel.intake.most_held
        return bool(super().can_consume()) and (most_held is None or most_held() > 0)

    @property
    def unacked(self) -> int:
        return len(self._delivered) - len(self._dirty)

    @property
    def unacked_bulk(self) -> int:
        queues = (message.delivery_info["routing_key"] for message in self._unacked_messages())
        return sum(lane_of(queue) != "interactive" for queue in queues)

    def _unacked_messages(self) -> list[Any]:
        # an acknowledged message is added to `_dirty` and leaves `_delivered` later
        return [message for tag, message in self._delivered.items() if tag not in self._dirty]

    def append(self, message: Any, delivery_tag: str) -> None:
        """Store a delivered message. If Redis refuses, hold the message for its list and raise."""
        if _is_wake_up(message):
            virtual.QoS.append(self, message, delivery_tag)
            return
        try:
            super().append(message, delivery_tag)
        except REDIS_ERRORS:
            self._hold(message)
            raise

    def ack(self, delivery_tag: str) -> None:
        """Delete the copy of an acknowledged message.

        If Redis refuses, kombu restores the message after an hour, and `take` refuses its job as closed.
        """
        if not self._is_wake_up(delivery_tag):
            try:
                # no transaction: a full Redis refuses MULTI, but accepts these two commands, which free memory
                with self.channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
                    pipe.hdel(self.unacked_key, delivery_tag).zrem(self.unacked_index_key, delivery_tag).execute()
            except REDIS_ERRORS as error:
                self.channel.pause_after(error)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put a message back as the next one to be popped, or drop it unless `requeue`.

        kombu's own `reject` puts it behind the whole backlog.
        """
        if requeue:
            try:
                self.restore_by_tag(delivery_tag)
            except REDIS_ERRORS as error:
                self.channel.pause_after(error)
                if delivery_tag in self._delivered:
                    self._hold(self._delivered[delivery_tag])
            virtual.QoS.ack(self, delivery_tag)
        else:
            self.ack(delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Put all unacknowledged messages back.

        Wake-ups go first, because a refusal of one of the others ends the method.
        """
        wake_ups = [message for message in self._unacked_messages() if _is_wake_up(message)]
        with self.channel.conn_or_acquire(client) as client:
            with client.pipeline(transaction=False) as pipe:
                for message in wake_ups:
                    pipe.rpush(message.delivery_info["routing_key"], raw_message(message))
                pipe.execute()
            for message in wake_ups:
                del self._delivered[message.delivery_tag]
            super().restore_unacked(client)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put one message back, which may be another worker's. Raises one of REDIS_ERRORS."""
        if not self._is_wake_up(tag):
            with self.channel.conn_or_acquire(client) as client:
                raw = client.hget(self.unacked_key, tag)
                if raw is None or _is_copy(raw):
                    super().restore_by_tag(tag, client, leftmost)
                else:
                    self._set_aside(tag, raw, client)
            return
        message = self._delivered[tag]
        with self.channel.conn_or_acquire(client) as client:
            client.rpush(message.delivery_info["routing_key"], raw_message(message))

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Put back messages whose visibility timeout (an hour) is over."""
        try:
            super().restore_visible(*args, **kwargs)
        except CONNECTION_LOST:
            raise
        except (RedisError, ValueError, TypeError) as error:
            self.channel.pause_after(error)

    def _set_aside(self, tag: str, raw: bytes, client: Any) -> None:
        malformed = MalformedMessage("its copy among the unacknowledged messages cannot be read")
        self.channel.intake.dead_letter_message(raw, DEFAULT_QUEUE, malformed)
        client.hdel(self.unacked_key, tag)
        client.zrem(self.unacked_index_key, tag)

    def _is_wake_up(self, tag: str) -> bool:
        message = self._delivered.get(tag)
        return message is not None and _is_wake_up(message)

    def _hold(self, message: Any) -> None:
        self.channel.intake.hold(message.delivery_info["routing_key"], raw_message(message))


def _is_copy(raw: bytes) -> bool:
    """Return whether kombu can restore this copy of a message."""
    try:
        message, exchange, routing_key = plain.loads(raw.decode())
    except Exception:
        # kombu's JSON has types that raise errors of many kinds
        return False
    return isinstance(message, dict) and isinstance(exchange, str) and isinstance(routing_key, str)


def _is_wake_up(message: Any) -> bool:
    return bool(message.body == _WAKE_UP)


def raw_message(message: Any) -> bytes:
    """Return a kombu message as it is stored in its Redis list."""
    return str(plain.dumps(message._raw)).encode()
