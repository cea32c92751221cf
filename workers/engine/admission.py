"""Who is in the echo engine's slots and who is next: interactive first, and nobody beside a prompt that is alone."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from vqa.job import LANES
from workers.engine.base import Completion, Prompt
from workers.engine.held import Held
from workers.engine.journal import Journal


class Admission:
    """A prompt leaves as its future is settled, before whoever waits on a future that follows that one hears of it."""

    def __init__(self, slots: int, journal: Journal | None) -> None:
        self._lock = threading.Lock()
        self._free = slots
        self._journal = journal
        self._waiting: dict[str, deque[tuple[Held, Callable[[], None]]]] = {lane: deque() for lane in LANES}
        #: those that are inside, and whether they take a slot; not by Held: a future that kept its own would keep the
        #: pictures until the garbage collector comes
        self._inside: dict[Future[Completion], tuple[Prompt, bool]] = {}
        self._alone = False

    def enter(self, held: Held, begin: Callable[[], None]) -> None:
        """Call `begin` once the prompt has a slot; never where it is settled before."""
        with self._lock:
            self._waiting[held.prompt.lane].append((held, begin))
        held.future.add_done_callback(self._leave)
        self._fill_slots()

    def pass_through(self, held: Held) -> bool:
        """Let the prompt in without a slot, to be settled at once; False where it has to wait for one."""
        with self._lock:
            if self._alone or held.prompt.alone:
                return False
            self._let_in(held, slot=False)
        held.future.add_done_callback(self._leave)
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
            first = [waiting for waiting in self._waiting.values() if waiting]
            # one that is to be alone would wait for ever behind others that come and go
            first.sort(key=lambda waiting: not waiting[0][0].prompt.alone)
            if not first or not self._may_enter(first[0][0][0]):
                return None
            held, begin = first[0].popleft()
            self._let_in(held, slot=True)
            return begin

    def _may_enter(self, held: Held) -> bool:
        if held.prompt.alone:
            return not self._inside
        return self._free > 0 and not self._alone

    def _let_in(self, held: Held, slot: bool) -> None:
        self._inside[held.future] = held.prompt, slot
        self._free -= slot
        self._alone = held.prompt.alone
        if self._journal:
            self._journal.write(held.prompt, "start")

    def _leave(self, future: Future[Completion]) -> None:
        with self._lock:
            left = self._inside.pop(future, None)
            if left is not None:
                prompt, slot = left
                self._free += slot
                self._alone = False
                if self._journal:
                    self._journal.write(prompt, "end")
        self._fill_slots()
