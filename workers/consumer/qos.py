# mypy: disallow-untyped-calls=False
"""Which message is with whom: in Redis those that other apps sent, as kombu does; a wake-up's job is in the ledger.

What a wake-up's loss costs is a wait for the janitor, which would find its job before kombu's hour is over in any case;
to write each down and strike it out took a worker longer than the ledger's own calls.
"""

from __future__ import annotations

from typing import Any, Protocol

from kombu.transport import redis as plain
from kombu.transport import virtual
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from vqa.celery import BODY
from vqa.connection import UNREACHED

#: what Celery answers with a new connection
LOST = (ConnectionError, TimeoutError, OSError)

#: a wake-up's body as kombu has it once it is decoded
_WAKE_UP = BODY.encode()


class Holds(Protocol):
    """Keeps messages that Redis does not take back, until it does."""

    def hold(self, queue: str, raw: bytes) -> None:
        """Keep one message for its list."""
        ...


class Channel(Protocol):
    """What a QoS needs of its kombu channel."""

    intake: Holds

    def conn_or_acquire(self, client: Any = None) -> Any:
        """Return a context manager around a Redis client."""
        ...

    def refused(self, error: BaseException) -> None:
        """Log a command that Redis refused."""
        ...


class Record(plain.QoS):
    """What Redis refuses it does not end the worker."""

    channel: Channel

    @property
    def most(self) -> int:
        """How many messages may be in this worker's hands; 0 is no limit."""
        return int(self.prefetch_count)

    @property
    def taken(self) -> int:
        """How many there are."""
        return len(self._delivered) - len(self._dirty)

    @property
    def bulk(self) -> int:
        """How many of them came from any list but interactive's."""
        queues = (message.delivery_info["routing_key"] for message in self._in_hand())
        return sum(queue != "interactive" for queue in queues)

    def _in_hand(self) -> list[Any]:
        # to acknowledge one adds to `_dirty` alone
        return [message for tag, message in self._delivered.items() if tag not in self._dirty]

    def append(self, message: Any, delivery_tag: str) -> None:
        """Write it down, or hold it for its list where Redis does not take that."""
        if _is_wake_up(message):
            virtual.QoS.append(self, message, delivery_tag)
            return
        try:
            super().append(message, delivery_tag)
        except UNREACHED:
            self._hold(message)
            raise

    def ack(self, delivery_tag: str) -> None:
        """Strike out what was written down; where Redis does not, it comes again after an hour, and is not needed."""
        if not self._is_wake_up(delivery_tag):
            try:
                # no transaction: a full Redis refuses those, and takes these two, which give memory back
                with self.channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
                    pipe.hdel(self.unacked_key, delivery_tag).zrem(self.unacked_index_key, delivery_tag).execute()
            except UNREACHED as error:
                self.channel.refused(error)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put it back where it came from, now or once Redis takes it; without `requeue` it is struck out.

        kombu puts it behind all others, where a backlog would be between a job and the next worker.
        """
        if requeue:
            try:
                self.restore_by_tag(delivery_tag)
            except UNREACHED as error:
                self.channel.refused(error)
                if delivery_tag in self._delivered:
                    self._hold(self._delivered[delivery_tag])
            virtual.QoS.ack(self, delivery_tag)
        else:
            self.ack(delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Put back all that nobody acknowledged, wake-ups first: of others one may be refused, and ends this."""
        ours = [message for message in self._in_hand() if _is_wake_up(message)]
        with self.channel.conn_or_acquire(client) as client:
            with client.pipeline(transaction=False) as pipe:
                for message in ours:
                    pipe.rpush(message.delivery_info["routing_key"], raw_of(message))
                pipe.execute()
            for message in ours:
                del self._delivered[message.delivery_tag]
            super().restore_unacked(client)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put back one, which need not be this worker's. Raises one of connection.UNREACHED."""
        if not self._is_wake_up(tag):
            super().restore_by_tag(tag, client, leftmost)
            return
        message = self._delivered[tag]
        with self.channel.conn_or_acquire(client) as client:
            client.rpush(message.delivery_info["routing_key"], raw_of(message))

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Put back what was written down an hour ago."""
        try:
            super().restore_visible(*args, **kwargs)
        except LOST:
            raise
        except (RedisError, ValueError, TypeError) as error:
            self.channel.refused(error)

    def _is_wake_up(self, tag: str) -> bool:
        message = self._delivered.get(tag)
        return message is not None and _is_wake_up(message)

    def _hold(self, message: Any) -> None:
        self.channel.intake.hold(message.delivery_info["routing_key"], raw_of(message))


def _is_wake_up(message: Any) -> bool:
    return bool(message.body == _WAKE_UP)


def raw_of(message: Any) -> bytes:
    """The message as it stands in Redis."""
    return str(plain.dumps(message._raw)).encode()
