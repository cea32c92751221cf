"""The prompts that no replica has taken yet, and which of them run together. Decides; computes nothing."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable

from workers.engine.base import Prompt
from workers.engine.held import Held
from workers.engine.settings import PIXELS_PER_TOKEN

#: one microbatch in so many is begun by bulk when both lanes wait
BULK_TURN = 20

#: lengths may differ by this factor; past it padding and waiting for the longest cost more than a microbatch saves
_ALIKE = 4.0


def about_tokens(prompt: Prompt, max_image_tokens: int) -> int:
    """Roughly the tokens of a prompt, told without a tokenizer: four characters a token, 32 x 32 pixels a token."""
    parts = [part for turn in prompt.turns for part in turn.parts]
    text = sum(len(part) for part in parts if isinstance(part, str)) // 4
    pixels = [part.width * part.height for part in parts if not isinstance(part, str)]
    return 16 + text + sum(min(count // PIXELS_PER_TOKEN, max_image_tokens) for count in pixels)


class Waiting:
    """Lets replicas take microbatches: interactive first, beginning with the longest waiting, with what suits it."""

    def __init__(self, wait_s: float, max_image_tokens: int) -> None:
        self._wait_s = wait_s
        self._max_image_tokens = max_image_tokens
        self._changed = threading.Condition()
        self._held: list[tuple[Held, int]] = []
        self._since_bulk = 0
        self._closed = False

    def add(self, held: Held) -> None:
        """Queue a prompt."""
        entry = (held, about_tokens(held.prompt, self._max_image_tokens))
        with self._changed:
            self._held.append(entry)
            self._changed.notify_all()

    def close(self) -> None:
        """Every `take` returns None from now on."""
        with self._changed:
            self._closed = True
            self._held.clear()
            self._changed.notify_all()

    def take(self, limit: int) -> list[Held] | None:
        """The next microbatch of at most `limit`; blocks until there is one, None when closed.

        One that is not full waits a little, counted from when its first prompt came.
        """
        with self._changed:
            while not self._closed:
                self._held = [entry for entry in self._held if not entry[0].settled]
                if not self._held:
                    self._changed.wait()
                    continue
                chosen = self._choose(limit)
                left_s = chosen[0].since + self._wait_s - time.monotonic()
                if len(chosen) >= limit or left_s <= 0:
                    return self._remove(chosen)
                self._changed.wait(left_s)
        return None

    def _choose(self, limit: int) -> list[Held]:
        head = self._head()
        suiting = sorted(
            ((entry[0].prompt.lane != head[0].prompt.lane, _distance(head, entry), entry[0]) for entry in self._held),
            key=lambda ranked: ranked[:2],
        )
        others = [held for _, distance, held in suiting if distance <= 1 and held is not head[0]]
        return [head[0], *others[: limit - 1]]

    def _head(self) -> tuple[Held, int]:
        lane = "bulk" if self._since_bulk >= BULK_TURN - 1 else "interactive"
        return next((entry for entry in self._held if entry[0].prompt.lane == lane), self._held[0])

    def _remove(self, chosen: list[Held]) -> list[Held]:
        mine = set(chosen)
        self._held = [entry for entry in self._held if entry[0] not in mine]
        bulk_waits = any(entry[0].prompt.lane == "bulk" for entry in self._held)
        self._since_bulk = self._since_bulk + 1 if bulk_waits and chosen[0].prompt.lane != "bulk" else 0
        return chosen


def _distance(one: tuple[Held, int], other: tuple[Held, int]) -> float:
    """0 for prompts of equal lengths, over 1 for those that are better apart."""
    if one[0].prompt.temperature != other[0].prompt.temperature:
        return math.inf
    lengths: Iterable[tuple[int, int]] = (
        (one[1], other[1]),
        (one[0].prompt.max_new_tokens, other[0].prompt.max_new_tokens),
    )
    return max(abs(math.log(a / b, _ALIKE)) for a, b in lengths)
