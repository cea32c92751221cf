"""A card with the continuous engine: passes, each a step of all answers under way and some tokens of prompts.

Two things are taken from measurements of one H200 (docs/benchmarks.md): how long a step of so many rows takes, and how
long a prompt's token, its share of the image's encoding included. All else follows from the passes.
"""

from __future__ import annotations

import bisect
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import cast

from bench.simulation.events import Events
from bench.simulation.jobs import Work
from bench.simulation.places import OnEnd, Places
from vqa.jobs.lane import LANES, Lane
from workers.engine.fair_share import FairShare, Reserve


@dataclass(slots=True, eq=False)
class Prompt:
    """A job with a slot whose prompt is not computed yet."""

    work: Work
    on_end: OnEnd
    #: tokens that are left
    left: int


@dataclass(frozen=True)
class Speed:
    """How fast a card is."""

    #: (rows, seconds of a step), rising; between them steps are interpolated
    steps: tuple[tuple[int, float], ...]
    #: seconds for a token of a prompt
    token_s: float
    #: most tokens of a pass, those of answers included
    budget: int = 3072

    def step_s(self, rows: int) -> float:
        """Return the seconds of a pass with so many answers under way and no prompts."""
        if not rows:
            return 0.0
        at = min(max(1, bisect.bisect_left(self.steps, (rows, 0.0))), len(self.steps) - 1)
        (low, fast), (high, slow) = self.steps[at - 1 : at + 1]
        return fast + (slow - fast) * (min(rows, high) - low) / (high - low)


#: bfloat16, 256 slots. The token's time is chosen so that 512 W1 jobs at once are answered at 41.4 a second, which is
#: measured; steps at 1, 32 and 256 rows are measured, those between them are the first round's in proportion
H200 = Speed(((1, 0.0029), (8, 0.0080), (32, 0.0150), (64, 0.0165), (128, 0.0175), (256, 0.0181)), 22.0e-6)


class Card:
    """The continuous engine of one card."""

    def __init__(self, events: Events, slots: int, reserve: Reserve, speed: Speed = H200) -> None:
        self._events = events
        self._places = Places(slots, reserve)
        self._speed = speed
        #: prompts that are not computed yet, and how many of their tokens are left
        self._prompts: dict[Lane, deque[Prompt]] = {lane: deque() for lane in LANES}
        self._share = FairShare()
        #: number of a pass -> answers that end with it
        self._ending: defaultdict[int, list[tuple[Work, OnEnd]]] = defaultdict(list)
        self._rows = 0
        self._passes = 0
        self._running = False

    def submit(self, work: Work, on_end: OnEnd) -> None:
        self._places.add(work, on_end)
        if not self._running:
            self._running = True
            # jobs of the same moment share the first pass
            self._events.after(0.0, self._pass)

    def _pass(self) -> None:
        while admitted := self._places.admit(self._events.now):
            self._prompts[admitted[0].lane].append(Prompt(*admitted, admitted[0].prompt_tokens))
        rows, (tokens, prompts) = self._rows, self._chunks()
        self._running = rows + tokens > 0
        if self._running:
            seconds = self._speed.step_s(rows) + tokens * self._speed.token_s
            self._events.after(seconds, lambda: self._passed(prompts))

    def _chunks(self) -> tuple[int, list[Prompt]]:
        """Take tokens of prompts for a pass; return how many, and the prompts that end with it."""
        room = budget = max(1, self._speed.budget - self._rows)
        complete = []
        lanes = self._share.order([lane for lane, prompts in self._prompts.items() if prompts])
        if lanes:
            self._share.served(lanes[0], lanes)
        waiting = (self._prompts[cast(Lane, lane)] for lane in lanes)
        for prompts in waiting:
            while room and prompts:
                part = min(prompts[0].left, room)
                room -= part
                prompts[0].left -= part
                if not prompts[0].left:
                    complete.append(prompts.popleft())
        return budget - room, complete

    def _passed(self, prompts: list[Prompt]) -> None:
        self._passes += 1
        ended = self._ending.pop(self._passes, [])
        self._rows -= len(ended)
        for prompt in prompts:
            # its pass has given the first token of the answer
            further = prompt.work.answer_tokens - 1
            self._rows += further > 0
            (self._ending[self._passes + further] if further > 0 else ended).append((prompt.work, prompt.on_end))
        for work, _ in ended:
            self._places.leave(work, self._events.now)
        for work, on_end in ended:
            on_end(work)
        self._pass()
