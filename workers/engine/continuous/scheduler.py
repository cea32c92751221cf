"""Decides what the engine computes next: who gets a slot, which pieces of prompts are prefilled, which slots decode.

Pure Python: knows numbers of tokens, slots and pages, no tensors and no model. A prompt gets its pages for the longest
answer that it may get when it gets its slot, so nobody in a slot ever waits for memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from vqa.job import LANES
from workers.engine.continuous.block_manager import Pages
from workers.engine.continuous.sequence import Stay
from workers.engine.fair_share import BULK_TURN, Reserve

#: Steps that prompts in slots wait at most for more to be prefilled with them, and only while others wait for slots. A
#: prefill reads all weights, however few its tokens are: one of 8 images takes an H200 twice as long as one of 2.
HOLD_STEPS = 8

#: Prefills that whoever has had a slot for longest is passed over in at most, by prompts of the interactive lane.
PASSED_MOST = 4

#: What a prefill takes, in steps: so many for any, and one more for so many tokens (H200, 30B, an image a prompt).
_PREFILL_STEPS, _TOKENS_A_STEP = 2, 700


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens `start` up to `stop` of a prompt."""

    stay: Stay
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class PrefillWork:
    """Compute these parts together."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class StepWork:
    """Compute the next token of each of these."""

    stays: tuple[Stay, ...]


class Scheduler:
    """Who waits, who has a slot, and whose turn it is."""

    def __init__(self, slots: int, pages: Pages, prefill_tokens: int, reserve: Reserve | None = None) -> None:
        """`prefill_tokens` are computed at most between two steps: what those who decode may have to wait for."""
        self._pages = pages
        self._prefill_tokens = prefill_tokens
        self._slots = slots
        self._reserve = reserve or Reserve()
        self._free = list(range(slots - 1, -1, -1))
        self._waiting: dict[str, deque[Stay]] = {lane: deque() for lane in LANES}
        self._seated: list[Stay] = []
        self._since_bulk = 0
        #: whether the last decision was to prefill, and steps since somebody could have been prefilled
        self._prefilled = False
        self._held = 0
        #: steps that those who decode are owed for the last prefill
        self._owed = 0
        #: prefills in a row in which the oldest of those that wait for one had no part
        self._passed = 0

    @property
    def seated(self) -> tuple[Stay, ...]:
        """Those who have slots, in the order in which they got them."""
        return tuple(self._seated)

    def fits(self, stay: Stay) -> bool:
        """Whether it could ever get its pages."""
        return self._pages.needed(stay.all_tokens) <= self._pages.count

    def add(self, stay: Stay) -> None:
        """It waits for a slot; it has to fit."""
        self._reserve.saw(stay.lane)
        self._waiting[stay.lane].append(stay)

    def leave(self, stay: Stay) -> None:
        """It has ended, however it did. What is still computed for it is nobody's."""
        if stay.gone:
            return
        stay.gone = True
        if stay.slot is not None:
            self._seated.remove(stay)
            self._free.append(stay.slot)
            self._pages.give_back(stay.pages)
            stay.slot = None

    def next(self) -> PrefillWork | StepWork | None:
        """What to compute now; None where there is nothing. What it decides counts as done."""
        self._admit()
        if self._prefills_now():
            oldest = next(stay for stay in self._seated if stay.prefills)
            parts = tuple(self._parts())
            self._passed = 0 if any(part.stay is oldest for part in parts) else self._passed + 1
            tokens = sum(part.stop - part.start for part in parts)
            self._prefilled, self._held = True, 0
            self._owed = min(HOLD_STEPS, _PREFILL_STEPS + tokens // _TOKENS_A_STEP)
            return PrefillWork(parts)
        decoding = tuple(stay for stay in self._seated if stay.decodes)
        if not decoding:
            return None
        self._prefilled = False
        self._held += any(stay.prefills for stay in self._seated)
        self._owed = max(0, self._owed - 1)
        for stay in decoding:
            stay.asked += 1
        return StepWork(decoding)

    def _prefills_now(self) -> bool:
        left = sum(stay.tokens - stay.prefilled for stay in self._seated if stay.prefills)
        if not left or not any(stay.decodes for stay in self._seated):
            return left > 0
        # a step between two prefills: those who decode are held up by one at a time
        if self._prefilled:
            return False
        if left >= self._prefill_tokens or self._held >= HOLD_STEPS:
            return True
        # as much time for those who decode as the last prefill took: otherwise prompts that come one by one, each
        # prefilled at once, leave them a step between two
        return not self._owed and not self._joins_soon()

    def _joins_soon(self) -> bool:
        """Whether somebody waits who is worth waiting for: interactive does not wait for bulk."""
        if any(stay.prefills and stay.lane == "interactive" for stay in self._seated):
            return any(not stay.gone for stay in self._waiting["interactive"])
        return any(not stay.gone for waiting in self._waiting.values() for stay in waiting)

    def _parts(self) -> Iterator[Part]:
        budget = self._prefill_tokens
        for stay in self._in_turn():
            left = stay.tokens - stay.prefilled
            # only what is longer than all that may be computed at once is cut: what was computed before has to be read
            if budget and (left <= budget or left > self._prefill_tokens):
                start, stop = stay.prefilled, min(stay.tokens, stay.prefilled + budget)
                budget -= stop - start
                stay.prefilled = stop
                # with its last part comes its answer's first token
                stay.asked = int(stop == stay.tokens)
                yield Part(stay, start, stop)

    def _in_turn(self) -> list[Stay]:
        """Whose prompts are to be computed: those that are begun, then interactive; all by age where that is due."""
        prefilling = [stay for stay in self._seated if stay.prefills]
        if self._passed >= PASSED_MOST:
            return prefilling
        return sorted(prefilling, key=lambda stay: (not stay.prefilled, LANES.index(stay.lane)))

    def _admit(self) -> None:
        while self._free and (stay := self._head()) is not None and self._may_enter(stay):
            self._waiting[stay.lane].popleft()
            self._since_bulk = self._since_bulk + 1 if self._waiting["bulk"] and stay.lane != "bulk" else 0
            stay.slot = self._free.pop()
            stay.pages = self._pages.take(self._pages.needed(stay.all_tokens))
            self._seated.append(stay)

    def _head(self) -> Stay | None:
        for waiting in self._waiting.values():
            while waiting and waiting[0].gone:
                waiting.popleft()
        ordered = sorted(LANES, key=lambda lane: self._is_bulks_turn and lane != "bulk")
        firsts = [self._waiting[lane][0] for lane in ordered if self._waiting[lane]]
        return next((stay for stay in firsts if stay.lane != "bulk" or self._admits_bulk()), None)

    @property
    def _is_bulks_turn(self) -> bool:
        return self._since_bulk >= BULK_TURN - 1

    def _admits_bulk(self) -> bool:
        bulk = sum(stay.lane == "bulk" for stay in self._seated)
        return self._reserve.admits_bulk(self._slots, len(self._seated), bulk, self._is_bulks_turn)

    def _may_enter(self, stay: Stay) -> bool:
        if any(other.alone for other in self._seated) or (stay.alone and self._seated):
            return False
        return self._pages.needed(stay.all_tokens) <= self._pages.free - self._kept_pages(stay)

    def _kept_pages(self, stay: Stay) -> int:
        """Those of the slots that this one is to leave free; none where it could wait for ever."""
        if stay.lane != "bulk" or self._is_bulks_turn or not self._seated:
            return 0
        return self._reserve.places * (self._pages.count // self._slots)
