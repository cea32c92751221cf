"""Who waits for the result of a message that no worker can use: the ids of its outcomes. No I/O.

Celery's `AsyncResult` takes any text as an id, a job does not. Whoever sends a chain or a chord waits for the result of
a later task, whose id is in the message of the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: longest id under which an outcome is written, and most ids of one message
_LONGEST_ID, _MOST_IDS = 1024, 1000

#: the end of a message, in which kombu writes headers and properties, after the body
_TAIL = 16_384
_CORRELATION_ID = re.compile(rb'"correlation_id": ?"([A-Za-z0-9._:@+/-]{1,128})"')


def is_waited_for(id: object) -> bool:
    """Return whether this can be the id of an `AsyncResult`."""
    if not isinstance(id, str) or not 0 < len(id) <= _LONGEST_ID:
        return False
    return not any("\ud800" <= char <= "\udfff" for char in id)


def id_in_tail(raw: bytes) -> str | None:
    """Return the task id of a message that is too heavy to be parsed, if it is where kombu writes it."""
    found = _CORRELATION_ID.findall(raw[-_TAIL:])
    return found[-1].decode() if found else None


def following_ids(*parts: object) -> list[str]:
    """Return the ids of the tasks in a chain, or in the body of a chord."""
    return list(dict.fromkeys(_task_ids(parts)))[:_MOST_IDS]


def _task_ids(part: object) -> Iterator[str]:
    if isinstance(part, list | tuple):
        for each in part:
            yield from _task_ids(each)
    elif isinstance(part, dict):
        options = part.get("options")
        id = options.get("task_id") if isinstance(options, dict) else None
        if isinstance(id, str) and is_waited_for(id):
            yield id
        for each in part.values():
            yield from _task_ids(each)
