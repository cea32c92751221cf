"""A producer process: submits jobs of all kinds at a steady rate until SIGTERM, then collects the remaining outcomes.

`python -m tests.chaos.producer NAME SEED RATE MIX RECORD`; VQA_REDIS_URL names Redis. Restarted with the record of a
killed producer, it continues its ids and collects the outcomes of its open jobs.
"""

from __future__ import annotations

import heapq
import itertools
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.chaos.jobs import Case, draw
from tests.chaos.record import Record, read
from tests.chaos.submitter import Submitter
from vqa.settings import QueueSettings

#: limit of open jobs, by mix
_MAX_OPEN = {"all": 300, "tiny": 3000}


class Producer:
    """One thread submits jobs, another collects outcomes."""

    def __init__(self, name: str, seed: str, rate: float, mix: str, path: Path) -> None:
        before = read([path]) if path.exists() else {}
        self._name = name
        self._numbers = itertools.count(len(before))
        # other random numbers than those of its predecessor
        self._random = random.Random(f"{seed} {name} {len(before)}")
        self._rate = rate
        self._mix = mix
        self._submitter = Submitter(QueueSettings(), Record(path), before.values())
        self._stopping = threading.Event()
        #: heap of later actions by time; the number breaks ties
        self._later: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def run(self) -> int:
        """Submit until SIGTERM, then collect until every job has ended."""
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        submitting = threading.Thread(target=self._submit_all, name="submitting", daemon=True)
        submitting.start()
        while submitting.is_alive() or self._submitter.waiting:
            self._submitter.collect(0.25)
        self._submitter.close()
        return 0

    def _submit_all(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            self._do_later()
            now = time.monotonic()
            if now < due or self._submitter.waiting > _MAX_OPEN[self._mix]:
                self._stopping.wait(0.02)
                continue
            # does not catch up after an outage
            due = max(due, now - 1.0) + self._submit_some() / self._rate
        for _, _, action in sorted(self._later):
            action()

    def _submit_some(self) -> int:
        count = 1 if self._random.random() < 0.9 else self._random.randint(5, 40)
        drawn = [draw(self._random, f"{self._name}-{next(self._numbers)}", self._mix) for _ in range(count)]
        for each in drawn:
            if each.kind == "foreign":
                self._submitter.send(each)
        if ours := [each for each in drawn if each.kind != "foreign"]:
            self._submit(ours)
        return count

    def _submit(self, cases: list[Case]) -> None:
        accepted = self._submitter.submit(cases)
        if not accepted and self._random.random() < 0.8 and not self._stopping.is_set():
            # the same ids again; jobs that were accepted before must not run twice
            self._at(self._random.uniform(0.5, 3), partial(self._submit, cases))
        for each in cases:
            if accepted and each.kind == "cancel":
                self._at(self._random.uniform(0, 1), partial(self._submitter.cancel, each.job.id))
            elif accepted and each.kind == "twice" and self._random.random() < 0.5:
                self._at(self._random.uniform(0, 3), partial(self._submit, [each]))

    def _at(self, delay_s: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._later, (time.monotonic() + delay_s, next(self._order), action))

    def _do_later(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()


if __name__ == "__main__":
    name, seed, rate, mix, path = sys.argv[1:]
    sys.exit(Producer(name, seed, float(rate), mix, Path(path)).run())
