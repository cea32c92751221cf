"""The inbox's stream as one worker reads it, and the outbox. Methods raise redis.exceptions.RedisError.

Redis knows which worker has read an entry; an entry stays in the stream until its worker deletes it. So what a killed
worker has read is claimed by another one, or read again by the same one after its restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from redis import Redis
from redis.exceptions import ResponseError

from vqa.errors import VQAError
from vqa.inbox import GROUP, INBOX, OUTBOX, OUTBOX_ENTRIES
from vqa.redis.error_replies import ErrorReply
from workers.inbox.entry import Entry

#: entries that one call claims; more than all workers hold at once, unless there are hundreds of them
_CLAIMED = 1000

#: a consumer without entries that has not read for this long is removed from the group; living ones read every second
_GONE_MS = 3_600_000

#: a script, because removing a consumer that has read an entry meanwhile would lose that entry
_FORGET = """
for _, told in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #told, 2 do consumer[told[i]] = told[i + 1] end
  if consumer.pending == 0 and consumer.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
  end
end
"""

#: position of entries that this worker has read and not deleted, and of those that nobody has read
Position = Literal["0", ">"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An entry that does not become a job."""

    #: of the entry
    entry: str
    #: of the job; '' if the entry has none
    id: str
    error: VQAError


@dataclass(frozen=True)
class InboxStream:
    """Reads as the consumer with this worker's name."""

    redis: Redis
    worker: str
    #: seconds that the outbox is kept after the last refusal
    ttl_s: int

    def create(self) -> None:
        """Make the stream and its group, unless they exist; entries written before are in it."""
        try:
            self.redis.xgroup_create(INBOX, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not is_reply(error, "BUSYGROUP"):
                raise

    def claim(self, idle_s: float) -> bool:
        """Take over entries that their worker has not deleted within `idle_s` seconds; return whether there were any.

        They are read at position "0".
        """
        claimed = self.redis.xautoclaim(INBOX, GROUP, self.worker, round(idle_s * 1000), count=_CLAIMED, justid=True)
        return bool(claimed)

    def read(self, position: Position, count: int, wait_s: float = 0) -> list[Entry]:
        """Return the next entries, waiting up to `wait_s` seconds for new ones.

        One that was deleted after it was read has no fields.
        """
        wait_ms = max(1, round(wait_s * 1000)) if wait_s else None
        streams = self.redis.xreadgroup(GROUP, self.worker, {INBOX: position}, count=count, block=wait_ms)
        listed = cast(list[tuple[bytes, list[tuple[bytes, Mapping[bytes, bytes] | None]]]], streams)
        return [Entry(id.decode(), fields or {}) for _, entries in listed for id, fields in entries]

    def delete(self, ids: Sequence[str]) -> None:
        """Delete entries from the stream and from the list of what this worker has read."""
        if not ids:
            return
        # no transaction: Redis refuses one when its memory is full. In this order: what is no longer in the stream is
        # at worst claimed once more without fields, but an entry that nobody holds would stay for ever
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.xdel(INBOX, *ids)
            pipe.xack(INBOX, GROUP, *ids)
            pipe.execute()

    def report(self, refusals: Iterable[Refusal]) -> None:
        """Write the refusals to the outbox."""
        with self.redis.pipeline(transaction=False) as pipe:
            for each in refusals:
                fields: dict[Any, Any] = {"entry": each.entry, "id": each.id}
                fields |= {"code": each.error.code(), "message": str(each.error)}
                pipe.xadd(OUTBOX, fields, maxlen=OUTBOX_ENTRIES, approximate=True)
            pipe.expire(OUTBOX, self.ttl_s)
            pipe.execute()

    def forget_vanished(self) -> None:
        """Remove consumers of workers that vanished long ago; other workers have claimed their entries."""
        self.redis.eval(_FORGET, 1, INBOX, GROUP, _GONE_MS)

    def leave(self) -> None:
        """Remove this worker from the group, unless it holds entries: removing it would lose them."""
        if not self.read("0", 1):
            self.redis.xgroup_delconsumer(INBOX, GROUP, self.worker)


def is_reply(error: BaseException, code: str) -> bool:
    """Return whether Redis replied with this error code."""
    reply = ErrorReply.parse(error)
    return reply is not None and reply.code == code
