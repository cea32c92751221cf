"""Finds queued jobs that have lost their message, by the oldest messages of their queue. kombu keeps them in a list."""

from __future__ import annotations

import json
import re
from typing import cast

from redis import Redis

from vqa.jobs.job import ID_PATTERN

#: seconds after which a queued job may have lost its message
LOST_MESSAGE_S = 5.0

_ID = re.compile(ID_PATTERN)

#: messages read at once, from the oldest on; other apps' messages may contain images
_WINDOW = 100
#: a larger one is passed over
_LARGEST = 65_536
#: bytes of messages that one search reads at most
_MOST_BYTES = 16 * 2**20


def oldest_message_time(redis: Redis, queue: str) -> float | None:
    """Return the earliest queueing time of the jobs with the oldest messages of a queue, in ms on Redis's clock.

    Jobs that were queued before have lost their message. None if no queued job has a message; 0 if the search gave up.
    Messages are only roughly in order, as producers overtake each other and workers put messages back; therefore the
    earliest of the oldest hundred counts. A message that a worker has just popped is missing, too: its job gets a
    duplicate message, which `take` refuses.
    """
    first = read = 0
    while read < _MOST_BYTES:
        first -= _WINDOW
        raw = cast(list[bytes], redis.lrange(queue, first, first + _WINDOW - 1))
        read += sum(map(len, raw))
        if ids := [id for item in raw if (id := _id_of(item)) is not None]:
            scores = redis.zmscore(f"vqa:queued:{queue}", ids)
            if queued := [score for score in scores if score is not None]:
                return min(queued)
        if len(raw) < _WINDOW:
            return None
    return 0.0


def _id_of(raw: bytes) -> str | None:
    # another app's, with images, or too heavy to be parsed here; a job of ours whose message is so large gets another
    if len(raw) > _LARGEST:
        return None
    try:
        id = json.loads(raw)["headers"]["id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return id if isinstance(id, str) and _ID.fullmatch(id) else None
