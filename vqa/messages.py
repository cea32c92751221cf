"""Which jobs have lost their wake-up: the one place that reads Celery's lists.

A worker that is killed before it takes the job of a message loses the message. A job that is queued and has none would
wait for its deadline.
"""

from __future__ import annotations

import json
import re
from typing import cast

from redis import Redis

from vqa.job import ID_PATTERN, Lane

_ID = re.compile(ID_PATTERN)

#: messages that are read at once, from the oldest on; other apps' may hold pictures
_WINDOW = 100
#: read in search of messages that are still needed; where there are more, the next round goes on
_MOST_BYTES = 16 * 2**20


def heard_since(redis: Redis, lane: Lane) -> float | None:
    """A time on Redis's clock, in ms: what was queued before it has no message on its lane. None: nothing has one.

    Messages stand in the order in which their jobs were queued, but for producers that overtake each other and
    messages that a worker put back: so the earliest of the oldest hundred counts, not the very oldest. One that a
    worker has just popped is missing too; its job gets a message too many, which `take` refuses.
    """
    first = read = 0
    while read < _MOST_BYTES:
        first -= _WINDOW
        raw = cast(list[bytes], redis.lrange(lane, first, first + _WINDOW - 1))
        read += sum(map(len, raw))
        if ids := [id for item in raw if (id := _id_of(item)) is not None]:
            scores = redis.zmscore(f"vqa:queued:{lane}", ids)
            if queued := [score for score in scores if score is not None]:
                return min(queued)
        if len(raw) < _WINDOW:
            return None
    return 0.0


def _id_of(raw: bytes) -> str | None:
    try:
        id = json.loads(raw)["headers"]["id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return id if isinstance(id, str) and _ID.fullmatch(id) else None
