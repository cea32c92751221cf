"""The prompts that no replica has taken yet, and which of them run together. Decides; computes nothing."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workers.engine.base import Prompt
from workers.engine.fair_share import FairShare
from workers.engine.runtime.pending import Pending

if TYPE_CHECKING:
    from workers.engine.pipeline.encoding import ModelInputs

#: lengths may differ by this factor; past it padding and waiting for the longest cost more than a microbatch saves
_MAX_RATIO = 4.0

#: seconds that a microbatch waits at most for prompts that are being encoded: to go without them would cost them a
#: whole microbatch's time
_ENCODING_WAIT_S = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A prompt that is encoded and can run."""

    pending: Pending
    inputs: ModelInputs
    #: on `time.monotonic()`'s clock
    since: float = field(default_factory=time.monotonic)

    @property
    def prompt(self) -> Prompt:
        """What was asked."""
        return self.pending.prompt


class Batcher:
    """Lets replicas take microbatches: interactive first, beginning with the longest waiting, with what suits it.

    A prompt that is to be alone is a microbatch of its own, taken when no replica runs another; until it is done no
    other is taken.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._encoded: list[Encoded] = []
        self._expected = 0
        self._fair_share = FairShare()
        #: microbatches that were taken and are not done, and whether the one there is has to be alone
        self._running = 0
        self._alone = False
        self._closed = False

    def expect(self) -> None:
        """A prompt is being encoded; `arrived` is to follow."""
        with self._changed:
            self._expected += 1

    def add(self, encoded: Encoded | None) -> None:
        """A prompt that was expected waits from now on; None where it ended on the way."""
        with self._changed:
            self._expected -= 1
            if encoded and not self._closed:
                self._encoded.append(encoded)
            self._changed.notify_all()

    def close(self) -> None:
        """Every `take` returns None from now on."""
        with self._changed:
            self._closed = True
            self._encoded.clear()
            self._changed.notify_all()

    def take(self, limit: int) -> list[Encoded] | None:
        """The next microbatch of at most `limit`; blocks until there is one, None when closed. `done` is to follow.

        One that is not full waits a little, counted from when its first prompt was ready.
        """
        with self._changed:
            while not self._closed:
                self._encoded = [encoded for encoded in self._encoded if not encoded.pending.settled]
                chosen = self._choose(limit) if self._encoded else []
                left_s = self._left_s(chosen, limit)
                if left_s is None or left_s > 0:
                    self._changed.wait(left_s)
                else:
                    return self._remove(chosen)
        return None

    def done(self) -> None:
        """A microbatch that was taken runs no more."""
        with self._changed:
            self._running -= 1
            self._alone = False
            self._changed.notify_all()

    def _left_s(self, chosen: list[Encoded], limit: int) -> float | None:
        """Seconds until this microbatch may go; None where that depends on more than time."""
        if not chosen or self._alone:
            return None
        head = chosen[0]
        if head.prompt.alone:
            return None if self._running else 0.0
        if _is_seeded(head.prompt):
            return 0.0
        wait_s = max(self._wait_s, _ENCODING_WAIT_S) if self._expected else self._wait_s
        return 0.0 if len(chosen) >= limit else head.since + wait_s - time.monotonic()

    def _choose(self, limit: int) -> list[Encoded]:
        head = self._head()
        distances = ((_distance(head, encoded), encoded) for encoded in self._encoded if encoded is not head)
        suiting = [(distance, encoded) for distance, encoded in distances if distance <= 1]
        suiting.sort(key=lambda entry: (entry[1].prompt.lane != head.prompt.lane, entry[0]))
        return [head, *(encoded for _, encoded in suiting[: limit - 1])]

    def _head(self) -> Encoded:
        lane = self._fair_share.order({encoded.prompt.lane for encoded in self._encoded})[0]
        return next(encoded for encoded in self._encoded if encoded.prompt.lane == lane)

    def _remove(self, chosen: list[Encoded]) -> list[Encoded]:
        mine = set(chosen)
        self._encoded = [encoded for encoded in self._encoded if encoded not in mine]
        self._running += 1
        self._alone = chosen[0].prompt.alone
        self._fair_share.served(chosen[0].prompt.lane, {encoded.prompt.lane for encoded in self._encoded})
        return chosen


def _distance(one: Encoded, other: Encoded) -> float:
    """0 for prompts of equal lengths, over 1 for those that are better apart."""
    if any(encoded.prompt.alone or _is_seeded(encoded.prompt) for encoded in (one, other)):
        return math.inf
    if _chances(one.prompt) != _chances(other.prompt):
        return math.inf
    lengths = (
        (one.inputs.prompt_tokens, other.inputs.prompt_tokens),
        (one.prompt.params.max_new_tokens, other.prompt.params.max_new_tokens),
    )
    return max(abs(math.log(a / b, _MAX_RATIO)) for a, b in lengths)


def _is_seeded(prompt: Prompt) -> bool:
    """Whether it runs in a microbatch of its own: padding and company change a model's figures a little."""
    return prompt.params.seed is not None and prompt.params.temperature > 0


def _chances(prompt: Prompt) -> tuple[float, float]:
    """What a microbatch has for all of its rows."""
    return (prompt.params.temperature, prompt.params.top_p) if prompt.params.temperature > 0 else (0.0, 1.0)
