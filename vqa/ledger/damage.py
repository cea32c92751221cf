"""Finds keys that another program has damaged, and sets them aside. lua/damage.lua says where they go.

An entry is set aside by whichever verb reads it. Keys of a wrong type are set aside by the janitor's round, which also
returns their jobs to the sets that it has lost.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from redis import Redis

from vqa.celery import DEFAULT_QUEUE
from vqa.images.stores.index import GOING, IMAGES
from vqa.inbox import INBOX, OUTBOX
from vqa.jobs.lane import LANES
from vqa.ledger.commands import entry_key
from vqa.ledger.ledger import DEAD, DEADLINES, IN_FLIGHT, WORKERS
from vqa.ledger.models import CANARIES, MODELS, OPEN_MODELS, model_queues
from vqa.ledger.records import Unreadable, WorkerInfo, texts
from vqa.ledger.script import Script
from vqa.routing import lane_of

log = logging.getLogger(__name__)


def _sets(queue: str) -> list[str]:
    return [f"vqa:{state}:{queue}" for state in IN_FLIGHT]


def queue_types(queue: str) -> dict[str, str]:
    """Return what lives under each key of a queue, except the sets of each tenant's waiting jobs."""
    types = {**dict.fromkeys(_sets(queue), "zset"), queue: "list"}
    if lane_of(queue) == "bulk":
        capacity = f"vqa:capacity{queue.removeprefix('bulk')}"
        types |= {f"vqa:turns:{queue}": "zset", f"vqa:flight:{queue}": "hash", capacity: "string"}
    return types


#: exchanges whose bindings kombu reads
_EXCHANGES = ("celery", "interactive", "bulk", "celery.pidbox", "reply.celery.pidbox", "celeryev")

#: what lives under each fixed key. The first two are written while the others are set aside
FIXED_TYPES: Mapping[str, str] = {
    DEAD: "zset",
    "vqa:damaged": "list",
    **dict.fromkeys(
        (DEADLINES, OPEN_MODELS, "vqa:batches", IMAGES, GOING, "unacked_index", "_kombu.binding_deadlines"), "zset"
    ),
    **dict.fromkeys((WORKERS, MODELS, CANARIES, "unacked"), "hash"),
    **{key: kind for lane in LANES for key, kind in queue_types(lane).items()},
    DEFAULT_QUEUE: "list",
    **dict.fromkeys((INBOX, OUTBOX), "stream"),
    **dict.fromkeys(("vqa:janitor", "unacked_mutex"), "string"),
    **{f"_kombu.binding{kind}.{name}": "set" for name in _EXCHANGES for kind in ("", "_permanent")},
}

#: tenants whose sets of waiting jobs are looked at
_TENANTS = 1000
#: ids in one call
_PAGE = 500


class Damage:
    """Access over a synchronous connection. Methods raise redis.exceptions.RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._run = Script(redis)

    def entry_flaws(self, ids: Sequence[str]) -> dict[str, str]:
        """Return what is wrong with the entries of these jobs, by id; nothing is changed."""
        said = self._run([entry_key(id) for id in ids], "flaws") if ids else []
        return {id: flaw.decode() for id, flaw in zip(ids, said, strict=True) if flaw}

    def wrong_types(self) -> dict[str, str]:
        """Return the keys of a wrong type, with the right one; nothing is changed."""
        found = self._wrong(FIXED_TYPES) or self._wrong(self._model_types())
        return found or self._wrong(self._waiting_types())

    def _wrong(self, types: Mapping[str, str]) -> dict[str, str]:
        wrong = self._run([*types], "wrong_types", *types.values()) if types else []
        return {key.decode(): types[key.decode()] for key in wrong}

    def worker_flaws(self) -> dict[bytes, str]:
        """Return what is wrong with lines in the hash of workers, by their names."""
        found = {}
        for name, line in cast(dict[bytes, bytes], self._redis.hgetall(WORKERS)).items():
            try:
                WorkerInfo.parse(name, line)
            except Unreadable as error:
                found[name] = str(error)
        return found

    def mend(self) -> None:
        """Set aside keys of a wrong type and lines of workers that cannot be read; log what was set aside."""
        # the sets of models and tenants first: reading one while it has a wrong type is tried again until that is set
        # aside
        wrong = self._set_aside(FIXED_TYPES) + self._set_aside(self._model_types())
        wrong += self._set_aside(self._waiting_types())
        for name, flaw in self.worker_flaws().items():
            log.error("removed from the list of workers: %s: %s", name.decode("utf-8", "backslashreplace"), flaw)
            self._redis.hdel(WORKERS, name)
        if wrong:
            for ids in self._open_ids():
                self._run([], "restore", *ids)

    def _set_aside(self, types: Mapping[str, str]) -> int:
        wrong, notes = self._run([*types], "mend", *types.values())
        for note in notes:
            log.error("set aside among the dead letters: %s", note.decode("utf-8", "backslashreplace"))
        return int(wrong)

    def _model_types(self) -> dict[str, str]:
        queues = (queue for queue in model_queues(self._redis) if queue not in LANES)
        return {key: kind for queue in queues for key, kind in queue_types(queue).items()}

    def _waiting_types(self) -> dict[str, str]:
        return {key: "zset" for key in texts(self._waiting_sets())}

    def _waiting_sets(self) -> Iterator[bytes]:
        for queue in model_queues(self._redis):
            if lane_of(queue) == "bulk":
                tenants = cast(list[bytes], self._redis.zrange(f"vqa:turns:{queue}", 0, _TENANTS - 1))
                yield from (f"vqa:waiting:{queue}:".encode() + tenant for tenant in tenants)

    def _open_ids(self) -> Iterator[list[Any]]:
        # each job is in the set of deadlines and in one other, unless one of them is lost
        sets = (key for queue in model_queues(self._redis) for key in _sets(queue))
        keys: list[str | bytes] = [DEADLINES, *sets, *self._waiting_sets()]
        for key in keys:
            start = 0
            while ids := self._redis.zrange(key, start, start + _PAGE - 1):
                yield cast(list[Any], ids)
                start += _PAGE
