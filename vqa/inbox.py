"""The Redis streams through which programs in other languages submit jobs; docs/wire.md describes them."""

from __future__ import annotations

from redis import Redis

#: entries with a job each; a worker deletes an entry once its job is in the ledger, or is refused
INBOX = "vqa:inbox"
#: entries that were refused, and why
OUTBOX = "vqa:outbox"
#: the consumer group of the workers
GROUP = "vqa"

#: refusals that are kept, about
OUTBOX_ENTRIES = 10_000


def inbox_length(redis: Redis) -> int:
    """Return the number of entries whose jobs are not accepted yet. Raises redis.exceptions.RedisError."""
    return redis.xlen(INBOX)
