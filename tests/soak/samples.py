"""What is measured every half minute: processes, and keys and memory of Redis."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import psutil
from redis import Redis

from tests.soak.system import System

#: keys whose memory is asked for in a round trip
_PAGE = 500
#: a key that lives longer than this outlives the run by design, as the record of a batch does for days
_KEPT_S = 1800
#: before the prefix of such keys
KEPT = "kept "
#: what follows a prefix: ids, names of hosts, digests
_REST = re.compile(r"^(vqa:[a-z-]+|celery-task-meta|_kombu\.\w+|unacked\w*|interactive|bulk|celery\b)?.*$", re.DOTALL)


@dataclass(frozen=True)
class ProcessSample:
    pid: int
    #: resident memory in MiB
    rss_mib: float
    descriptors: int
    threads: int
    #: seconds on a core since its start
    cpu_s: float


@dataclass(frozen=True)
class Sample:
    """`at_s` is counted from the start of the load."""

    at_s: float
    processes: dict[str, ProcessSample]
    #: by prefix
    keys: dict[str, int]
    key_bytes: dict[str, int]
    #: used_memory, bytes of the append-only file, connected clients
    redis: dict[str, int]
    jobs: int = 0
    faults: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def take(system: System, at_s: float, jobs: int, faults: dict[str, int]) -> Sample:
    keys, sizes = Counter[str](), Counter[str]()
    for key, size, ttl_s in _sizes(system.redis):
        prefix = prefix_of(key)
        if ttl_s > _KEPT_S and key != prefix:
            prefix = f"{KEPT}{prefix}"
        keys[prefix] += 1
        sizes[prefix] += size
    info = cast(dict[str, Any], system.redis.info())
    redis = {name: int(info[name]) for name in ("used_memory", "aof_current_size", "connected_clients")}
    processes = dict(_processes(system))
    return Sample(at_s, processes, dict(sorted(keys.items())), dict(sorted(sizes.items())), redis, jobs, faults)


def prefix_of(key: str) -> str:
    """Return the part of a key that all keys of its kind share."""
    found = _REST.match(key)
    return (found and found[1]) or key.split(".")[-1]


def _processes(system: System) -> Iterator[tuple[str, ProcessSample]]:
    for name, process in system.processes().items():
        with suppress(psutil.NoSuchProcess), process.oneshot():
            cpu = process.cpu_times()
            memory = process.memory_info().rss / 2**20
            yield (
                name,
                ProcessSample(
                    process.pid, round(memory, 2), process.num_fds(), process.num_threads(), cpu.user + cpu.system
                ),
            )


def _sizes(redis: Redis) -> Iterator[tuple[str, int, int]]:
    """Yield each key with its bytes and its time to live in seconds, -1 without one."""
    keys = list(redis.scan_iter(count=1000))
    for start in range(0, len(keys), _PAGE):
        page = keys[start : start + _PAGE]
        with redis.pipeline(transaction=False) as pipe:
            for key in page:
                pipe.memory_usage(key, samples=0)
                pipe.ttl(key)
            replies = pipe.execute()
        for key, size, ttl_s in zip(page, replies[::2], replies[1::2], strict=True):
            # None: it expired meanwhile
            if size is not None:
                yield key.decode(errors="replace"), size, ttl_s
