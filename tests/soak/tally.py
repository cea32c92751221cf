"""Counts how jobs ended, and keeps what went wrong."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter

#: messages kept for each kind of fault
_KEPT = 20
#: ending of a job that was refused, or ended by its deadline, because the machine was too busy
LATE = "late"


class Tally:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: by kind of load and ending, such as `ask answered`
        self.endings: Counter[str] = Counter()
        #: `lost`, `doubled` or `wrong`
        self.faults: Counter[str] = Counter()
        self.messages: list[str] = []
        #: jobs that rightly have more than one outcome
        self.reopened: set[str] = set()

    def end(self, kind: str, ending: str, count: int = 1) -> None:
        with self._lock:
            self.endings[f"{kind} {ending}"] += count

    def fault(self, fault: str, message: str) -> None:
        with self._lock:
            self.faults[fault] += 1
            if self.faults[fault] > _KEPT:
                return
            self.messages.append(f"{fault}: {message}")
        print(f"soak: {fault}: {message}", flush=True)

    def reopen(self, id: str) -> None:
        with self._lock:
            self.reopened.add(id)

    def late(self) -> int:
        with self._lock:
            return sum(count for ending, count in self.endings.items() if ending.endswith(f" {LATE}"))

    def jobs(self) -> int:
        with self._lock:
            return self.endings.total()


def shorten(outcomes: dict[str, list[bytes]]) -> None:
    """Replace outcomes by their digests, as those of hours would take hundreds of MiB."""
    for id in list(outcomes):
        seen = outcomes[id]
        for at in range(len(seen)):
            if len(seen[at]) > 16:
                seen[at] = hashlib.blake2b(seen[at], digest_size=16).digest()


def count_doubled(outcomes: dict[str, list[bytes]], tally: Tally) -> None:
    """Report jobs with two different outcomes as `doubled`."""
    shorten(outcomes)
    for id, seen in outcomes.items():
        if len(set(seen)) > 1 and id not in tally.reopened:
            tally.fault("doubled", f"{id} has {len(set(seen))} outcomes")
