"""Why the newest dead letters were given up, in two round trips however many are kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import cast

from redis import Redis
from redis.exceptions import ResponseError

from producer.client.dead_letters import DAMAGED, DeadLetter
from vqa import errors
from vqa.errors import VQAError
from vqa.ledger.commands import dead_key
from vqa.ledger.ledger import DEAD
from vqa.ledger.records import texts

#: dead letters that are read. They are in Redis by time alone, so all of them would have to be read for all counts
NEWEST = 100

#: last byte of what is read of each: the header, which is before a payload of up to megabytes, and its attempts
_LAST_BYTE = 16 * 2**10 - 1

#: of those that are of no known class and reason
OTHER = "other"


def _codes() -> Iterator[tuple[str, str]]:
    for name, each in vars(errors).items():
        if isinstance(each, type) and issubclass(each, VQAError):
            yield name, each.code()
    # written by the ledger, not by a class
    yield "WorkerLost", "worker_lost"


_CODES: Mapping[str, str] = dict(_codes())
_REASONS = frozenset(("worker_lost", "attempts_used_up", "unsupported_version", "malformed", DAMAGED))
_CLASS = re.compile(r"(\w+): ")


def count_dead_codes(redis: Redis) -> Mapping[str, int] | None:
    """Count the newest dead letters by their last error's code; None if this user may not read them."""
    try:
        ids = texts(cast(list[bytes], redis.zrange(DEAD, 0, NEWEST - 1, desc=True)))
        with redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.getrange(dead_key(id), 0, _LAST_BYTE)
            entries = cast(list[bytes], pipe.execute())
    except ResponseError:
        return None
    # one that has expired is empty
    return Counter(_code(DeadLetter.parse(id, entry)) for id, entry in zip(ids, entries, strict=True) if entry)


def _code(letter: DeadLetter) -> str:
    named = _CLASS.match(letter.error or "")
    if named and named[1] in _CODES:
        return _CODES[named[1]]
    reason = letter.reason.partition(":")[0]
    return reason if reason in _REASONS else OTHER
