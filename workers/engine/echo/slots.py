"""Admits prompts to the echo engine's slots by lane, and records their times for tests."""

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
from vqa.jobs.lane import LANES
from workers.engine.base import Completion, Prompt
from workers.engine.fair_share import FairShare, Reserve
from workers.engine.runtime.pending import Pending


class Journal:
    """Appends a line of JSON when a prompt enters or leaves; each is one write, so processes can share a file."""

    def __init__(self, path: Path) -> None:
        """Raises NotReady if the file cannot be written."""
        self._path = path
        try:
            self._append(b"")
        except OSError as error:
            raise NotReady(f"cannot write {path} (VQA_ECHO_JOURNAL): {error.strerror}") from None

    def write(self, prompt: Prompt, event: Literal["start", "end"]) -> None:
        # all processes of a machine share the clock of `time.monotonic()`
        line = {"at": time.monotonic(), "pid": os.getpid(), "id": prompt.id, "attempt": prompt.attempt, "event": event}
        self._append(json.dumps(line).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            file.write(line)


class Slots:
    """Prompts in slots, and prompts that wait for one in the order of FairShare; one that is `alone` runs alone.

    A prompt frees its slot in a callback of its future, before callers that wait on its result are woken.
    """

    def __init__(self, slots: int, journal: Journal | None, reserve: Reserve | None = None) -> None:
        self._lock = threading.Lock()
        self._slots = slots
        self._reserve = reserve or Reserve()
        #: slots in use, in all and by bulk
        self._taken = self._bulk = 0
        self._fair_share = FairShare()
        self._journal = journal
        self._waiting: dict[str, deque[tuple[Pending, Callable[[], None]]]] = {lane: deque() for lane in LANES}
        #: prompts being answered, and whether they use a slot. Not keyed by Pending: a future whose callback references
        #: its own Pending keeps the images until a garbage collection
        self._inside: dict[Future[Completion], tuple[Prompt, bool]] = {}
        self._alone = self._closed = False

    def enter(self, pending: Pending, begin: Callable[[], None]) -> None:
        """Call `begin` once the prompt gets a slot, unless it is settled before."""
        with self._lock:
            self._reserve.saw(pending.prompt.lane)
            self._waiting[pending.prompt.lane].append((pending, begin))
        pending.future.add_done_callback(self._leave)
        self._fill_slots()

    def pass_through(self, pending: Pending) -> bool:
        """Admit the prompt without a slot, to be settled at once; return False if it has to wait for a slot."""
        with self._lock:
            if self._alone or pending.prompt.alone:
                return False
            self._admit(pending, slot=False)
        pending.future.add_done_callback(self._leave)
        return True

    def close(self) -> None:
        """Leave the slots that prompts free empty: those that wait are about to fail."""
        with self._lock:
            self._closed = True

    def in_slots(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(prompt.id for prompt, slot in self._inside.values() if slot)

    def _fill_slots(self) -> None:
        while (begin := self._next()) is not None:
            begin()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            if self._closed:
                return None
            for waiting in self._waiting.values():
                while waiting and waiting[0][0].settled:
                    waiting.popleft()
            first = self._first()
            if first is None or not self._may_enter(first[0][0]):
                return None
            pending, begin = first.popleft()
            self._fair_share.served(pending.prompt.lane, self._lanes_waiting())
            self._admit(pending, slot=True)
            return begin

    def _first(self) -> deque[tuple[Pending, Callable[[], None]]] | None:
        waiting = [self._waiting[lane] for lane in self._fair_share.order(self._lanes_waiting())]
        # a prompt that must run alone goes first, or it would wait for ever behind others
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

    def _admit(self, pending: Pending, slot: bool) -> None:
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
