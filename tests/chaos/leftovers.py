"""Finds keys that should not be in Redis after everything has ended."""

from __future__ import annotations

import re
from collections.abc import Iterator

from redis import Redis

#: may stay if they have a time to live
_EXPIRING = re.compile(
    r"vqa:(dead(:.+)?|image:sha256:[0-9a-f]{64}|reply:.+|capacity(\..+)?|batch:.+|batches|damaged(:.+)?|models"
    r"|closed:(interactive|bulk)(\..+)?:\d+|failed:\d+)|celery-task-meta-.+"
)
#: prefixes of the sets of open jobs
_SETS = ("queued", "leased", "delayed", "waiting")
#: keys of Celery and kombu; their lists may hold surplus messages, which `take` refuses
_CELERY = re.compile(r"unacked.*|_kombu\..*|(interactive|bulk)(\..+)?|celery|celeryev.*|.+\.pidbox")


def leftovers(redis: Redis) -> Iterator[str]:
    """Yield a line for each key that should not exist, or that should expire and does not."""
    for key in sorted(key.decode(errors="replace") for key in redis.scan_iter(count=1000)):
        if _CELERY.fullmatch(key):
            continue
        # the inbox stays for its consumer group
        if key == "vqa:inbox" and redis.type(key) == b"stream":
            if entries := redis.xlen(key):
                yield f"{key} has {entries} entries left"
            continue
        if not _EXPIRING.fullmatch(key):
            yield f"{key} is left in Redis"
        elif redis.pttl(key) == -1:
            yield f"{key} has no time to live"


def count_open_jobs(redis: Redis) -> int:
    """Return the number of open jobs, from all keys of the ledger."""
    sets = [key for place in _SETS for key in redis.scan_iter(f"vqa:{place}:*", count=1000)]
    entries = sum(1 for _ in redis.scan_iter("vqa:job:*", count=1000))
    return max(entries, redis.zcard("vqa:deadlines"), *(redis.zcard(key) for key in sets), 0)
