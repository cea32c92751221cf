"""Peak memory of a process and of Redis while something runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis

_INTERVAL_S = 0.2


@dataclass
class Watch:
    """Peaks: a process's resident memory, Redis's memory and its number of Pub/Sub channels."""

    resident_mib: float = 0.0
    redis_mib: float = 0.0
    channels: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def run(self, pid: int, connection: Redis) -> None:
        """Sample until `close` is called."""
        while not self._done.wait(_INTERVAL_S):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
            self.resident_mib = max(self.resident_mib, *(int(kib) / 1024 for kib in found), 0.0)
            self.redis_mib = max(self.redis_mib, connection.info("memory")["used_memory"] / 2**20)
            self.channels = max(self.channels, len(connection.pubsub_channels()))

    def close(self) -> None:
        self._done.set()


@contextmanager
def watching(pid: int, connection: Redis) -> Iterator[Watch]:
    """Watch the process and Redis while the block runs."""
    watch = Watch()
    thread = threading.Thread(target=watch.run, args=(pid, connection), name="watch")
    thread.start()
    try:
        yield watch
    finally:
        watch.close()
        thread.join()
