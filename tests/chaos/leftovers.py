"""What is in Redis when everything has ended, and what of it should not be."""

from __future__ import annotations

import re
from collections.abc import Iterator

from redis import Redis

#: may stay, with a time to live
_EXPIRING = re.compile(
    r"vqa:(dead(:.+)?|image:sha256:[0-9a-f]{64}|reply:.+|capacity|batch:.+|batches)|celery-task-meta-.+"
)
#: beginnings of the names of sets of open jobs
_PLACES = ("queued", "leased", "delayed", "waiting")
#: Celery's and kombu's own; wake-ups too many among them, which `take` refuses
_THEIRS = re.compile(r"unacked.*|_kombu\..*|interactive|bulk|celery|celeryev.*|.+\.pidbox")


def leftovers(redis: Redis) -> Iterator[str]:
    """A line for each key that should not be there, or that has no end."""
    for key in sorted(key.decode(errors="replace") for key in redis.scan_iter(count=1000)):
        if _THEIRS.fullmatch(key):
            continue
        if not _EXPIRING.fullmatch(key):
            yield f"{key} is left in Redis"
        elif redis.pttl(key) == -1:
            yield f"{key} has no time to live"


def ledger_rest(redis: Redis) -> int:
    """Open jobs that the ledger has, in whatever of its sets."""
    sets = [key for place in _PLACES for key in redis.scan_iter(f"vqa:{place}:*", count=1000)]
    entries = sum(1 for _ in redis.scan_iter("vqa:job:*", count=1000))
    return max(entries, redis.zcard("vqa:deadlines"), *(redis.zcard(key) for key in sets), 0)
