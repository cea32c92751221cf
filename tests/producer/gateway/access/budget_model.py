"""What budgets.lua should count, written differently, for `test_budget_model.py`."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

MINUTE_MS, DAY_MS = 60_000, 86_400_000
LOOK_MS, FEW = 100, 2


@dataclass
class Held:
    """A reservation."""

    tokens: int
    made: int
    deadline: int


@dataclass
class Model:
    """Tokens and jobs in flight of one key; times in ms."""

    minute_most: int
    day_most: int
    flight_most: int
    now: int
    #: by length and number of a window
    counts: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    held: dict[str, Held] = field(default_factory=dict)
    #: jobs with an outcome, and their tokens; None if the outcome does not tell
    ended: dict[str, int | None] = field(default_factory=dict)
    looked: int = -LOOK_MS

    def used(self, length: int) -> int:
        number, since = divmod(self.now, length)
        previous, current = self.counts[length, number - 1], self.counts[length, number]
        return math.floor(previous * (length - since) / length) + current

    def add(self, tokens: int, at: int) -> None:
        for length in (MINUTE_MS, DAY_MS):
            self.counts[length, at // length] += tokens

    def reserve(self, job: str, tokens: int, timeout_ms: int) -> str:
        self.held = {id: each for id, each in self.held.items() if each.deadline > self.now}
        if job in self.held:
            return ""
        verdict = self.refusal(tokens)
        if verdict and (len(self.held) <= FEW or self.now - self.looked >= LOOK_MS):
            self.looked = self.now if len(self.held) > FEW else self.looked
            for id in [id for id in self.held if id in self.ended]:
                self.settle(id, self.ended[id])
            verdict = self.refusal(tokens)
        if not verdict:
            self.held[job] = Held(tokens, self.now, self.now + timeout_ms)
            self.add(tokens, self.now)
        return verdict

    def refusal(self, tokens: int) -> str:
        if len(self.held) >= self.flight_most:
            return "flight"
        if self.used(MINUTE_MS) + tokens > self.minute_most:
            return "minute"
        return "day" if self.used(DAY_MS) + tokens > self.day_most else ""

    def settle(self, job: str, used_tokens: int | None) -> None:
        held = self.held.pop(job, None)
        if held and used_tokens is not None:
            more = used_tokens - held.tokens
            self.add(more, self.now if more > 0 else held.made)
