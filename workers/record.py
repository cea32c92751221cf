# mypy: disallow-untyped-calls=False
"""kombu's record of which message is with whom, which does not end the worker when Redis refuses to keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.transport import redis as plain
from kombu.transport import virtual
from redis.exceptions import ConnectionError, ExecAbortError, OutOfMemoryError, RedisError, TimeoutError

from vqa.connection import UNREACHED

if TYPE_CHECKING:
    from workers.transport import Channel

#: what Celery answers with a new connection
LOST = (ConnectionError, TimeoutError, OSError)


class Record(plain.QoS):
    """A second net under the ledger: where it fails, the work goes on."""

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
        # other threads acknowledge meanwhile, which adds to `_dirty` alone
        return [message for tag, message in self._delivered.items() if tag not in self._dirty]

    def append(self, message: Any, delivery_tag: str) -> None:
        """Write it down, where there is room; or hold it for its list."""
        try:
            super().append(message, delivery_tag)
        except (OutOfMemoryError, ExecAbortError):
            if message.payload[0]:
                # a job that is in no ledger yet
                self._hold(message)
                raise
            # the ledger has the job: a full Redis gets room by answering what is in it
            virtual.QoS.append(self, message, delivery_tag)
        except UNREACHED:
            self._hold(message)
            raise

    def ack(self, delivery_tag: str) -> None:
        """Strike it out; where Redis does not, the message comes once more after an hour, and is not needed."""
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

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Put back what was written down an hour ago."""
        try:
            super().restore_visible(*args, **kwargs)
        except LOST:
            raise
        except (RedisError, ValueError, TypeError) as error:
            self.channel.refused(error)

    def _hold(self, message: Any) -> None:
        self.channel.intake.hold(message.delivery_info["routing_key"], raw_of(message))


def raw_of(message: Any) -> bytes:
    """The message as it stands in Redis."""
    return str(plain.dumps(message._raw)).encode()
