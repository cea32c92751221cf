"""Who is in the echo engine's slots and who is next: interactive first, one in twenty bulk, nobody beside one alone."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

from vqa.errors import NotReady
from vqa.job import LANES
from workers.engine.base import Completion, Prompt
from workers.engine.fair_share import FairShare, Reserve
from workers.engine.runtime.pending import Pending


class Journal:
    """Each line is one write at the file's end, so lines of several processes never mix."""

    def __init__(self, path: Path) -> None:
        """Raises NotReady where the file cannot be written."""
        self._path = path
        try:
            self._append(b"")
        except OSError as error:
            raise NotReady(f"cannot write {path} (VQA_ECHO_JOURNAL): {error.strerror}") from None

    def write(self, prompt: Prompt, event: Literal["start", "end"]) -> None:
        """`at` is on `time.monotonic()`'s clock, which all processes of a machine share."""
        line = {
            "at": time.monotonic(),
            "pid": os.getpid(),
            "id": prompt.id,
            "attempt": prompt.attempt,
            "event": event,
        }
        self._append(json.dumps(line).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            file.write(line)


class Slots:
    """A prompt leaves as its future is settled, before whoever waits on a future that follows that one hears of it."""

    def __init__(self, slots: int, journal: Journal | None, reserve: Reserve | None = None) -> None:
        self._lock = threading.Lock()
        self._slots = slots
        self._reserve = reserve or Reserve()
        #: slots that are taken, in all and by bulk
        self._taken = self._bulk = 0
        self._fair_share = FairShare()
        self._journal = journal
        self._waiting: dict[str, deque[tuple[Pending, Callable[[], None]]]] = {lane: deque() for lane in LANES}
        #: those that are inside, and whether they take a slot; not by Held: a future that kept its own would keep the
        #: images until the garbage collector comes
        self._inside: dict[Future[Completion], tuple[Prompt, bool]] = {}
        self._alone = False

    def enter(self, pending: Pending, begin: Callable[[], None]) -> None:
        """Call `begin` once the prompt has a slot; never where it is settled before."""
        with self._lock:
            self._reserve.saw(pending.prompt.lane)
            self._waiting[pending.prompt.lane].append((pending, begin))
        pending.future.add_done_callback(self._leave)
        self._fill_slots()

    def pass_through(self, pending: Pending) -> bool:
        """Let the prompt in without a slot, to be settled at once; False where it has to wait for one."""
        with self._lock:
            if self._alone or pending.prompt.alone:
                return False
            self._let_in(pending, slot=False)
        pending.future.add_done_callback(self._leave)
        return True

    def in_slots(self) -> tuple[str, ...]:
        """The prompts that have a slot."""
        with self._lock:
            return tuple(prompt.id for prompt, slot in self._inside.values() if slot)

    def _fill_slots(self) -> None:
        while (begin := self._next()) is not None:
            begin()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            for waiting in self._waiting.values():
                while waiting and waiting[0][0].settled:
                    waiting.popleft()
            first = self._first()
            if first is None or not self._may_enter(first[0][0]):
                return None
            pending, begin = first.popleft()
            self._fair_share.served(pending.prompt.lane, self._lanes_waiting())
            self._let_in(pending, slot=True)
            return begin

    def _first(self) -> deque[tuple[Pending, Callable[[], None]]] | None:
        waiting = [self._waiting[lane] for lane in self._fair_share.order(self._lanes_waiting())]
        # one that is to be alone would wait for ever behind others that come and go
        waiting.sort(key=lambda waiting: not waiting[0][0].prompt.alone)
        admits_bulk = self._reserve.admits_bulk(self._slots, self._taken, self._bulk, self._fair_share.is_due("bulk"))
        for first in waiting:
            prompt = first[0][0].prompt
            if prompt.alone or prompt.lane != "bulk" or admits_bulk:
                return first
        return None

    def _lanes_waiting(self) -> list[str]:
        return [lane for lane, waiting in self._waiting.items() if waiting]

    def _may_enter(self, pending: Pending) -> bool:
        if pending.prompt.alone:
            return not self._inside
        return self._taken < self._slots and not self._alone

    def _let_in(self, pending: Pending, slot: bool) -> None:
        self._inside[pending.future] = pending.prompt, slot
        self._count(pending.prompt, slot)
        self._alone = pending.prompt.alone
        if self._journal:
            self._journal.write(pending.prompt, "start")

    def _count(self, prompt: Prompt, slots: int) -> None:
        self._taken += slots
        if prompt.lane == "bulk":
            self._bulk += slots

    def _leave(self, future: Future[Completion]) -> None:
        with self._lock:
            left = self._inside.pop(future, None)
            if left is not None:
                prompt, slot = left
                self._count(prompt, -slot)
                self._alone = False
                if self._journal:
                    self._journal.write(prompt, "end")
        self._fill_slots()
