"""Groups encoded prompts into microbatches for the replicas. Pure scheduling: computes no tensors."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workers.engine.base import Prompt
from workers.engine.fair_share import FairShare
from workers.engine.runtime.pending import Pending
from workers.engine.text.guide import max_tokens

if TYPE_CHECKING:
    from workers.engine.pipeline.encoding import ModelInputs

#: lengths in a microbatch differ by at most this factor; beyond it, padding and waiting for the longest cost more than
#: the microbatch saves
_MAX_RATIO = 4.0

#: most seconds that a microbatch waits for prompts that are being encoded: a prompt that misses it waits until it ends
_ENCODING_WAIT_S = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A prompt that is ready to run."""

    pending: Pending
    inputs: ModelInputs
    #: on `time.monotonic()`'s clock
    since: float = field(default_factory=time.monotonic)

    @property
    def prompt(self) -> Prompt:
        return self.pending.prompt


class Batcher:
    """Makes microbatches: the prompt that has waited longest, interactive first, and prompts of similar length.

    A prompt that must run alone gets a microbatch of its own, taken when no other runs; until it is done no other
    microbatch is taken.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._encoded: list[Encoded] = []
        self._expected = 0
        self._fair_share = FairShare()
        #: microbatches taken and not done; whether the only one must run alone
        self._running = 0
        self._alone = False
        self._closed = False

    def expect(self) -> None:
        """Announce a prompt that is being encoded; `add` must follow."""
        with self._changed:
            self._expected += 1

    def add(self, encoded: Encoded | None) -> None:
        """Queue an expected prompt; None if it was settled while it was encoded."""
        with self._changed:
            self._expected -= 1
            if encoded and not self._closed:
                self._encoded.append(encoded)
            self._changed.notify_all()

    def close(self) -> None:
        """Make every `take` return None from now on."""
        with self._changed:
            self._closed = True
            self._encoded.clear()
            self._changed.notify_all()

    def take(self, limit: int) -> list[Encoded] | None:
        """Wait for the next microbatch of at most `limit` prompts; return None when closed. `done` must follow.

        A microbatch that is not full waits up to `wait_s`, counted from when its first prompt was encoded.
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
        with self._changed:
            self._running -= 1
            self._alone = False
            self._changed.notify_all()

    def _left_s(self, chosen: list[Encoded], limit: int) -> float | None:
        """Return the seconds until this microbatch may start; None if it has to wait for something else."""
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
        suitable = [(distance, encoded) for distance, encoded in distances if distance <= 1]
        suitable.sort(key=lambda entry: (entry[1].prompt.lane != head.prompt.lane, entry[0]))
        return [head, *(encoded for _, encoded in suitable[: limit - 1])]

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
    """Return 0 for prompts of equal lengths, more than 1 for prompts that must not share a microbatch."""
    if any(encoded.prompt.alone or _is_seeded(encoded.prompt) for encoded in (one, other)):
        return math.inf
    if _sampling(one.prompt) != _sampling(other.prompt):
        return math.inf
    lengths = (
        (one.inputs.prompt_tokens, other.inputs.prompt_tokens),
        (_max_tokens(one), _max_tokens(other)),
    )
    return max(abs(math.log(a / b, _MAX_RATIO)) for a, b in lengths)


def _max_tokens(encoded: Encoded) -> int:
    return max_tokens(encoded.prompt.params.max_new_tokens, encoded.inputs.guide)


def _is_seeded(prompt: Prompt) -> bool:
    """Whether the prompt runs in a microbatch of its own: padding and other prompts change the logits a little."""
    return prompt.params.seed is not None and prompt.params.temperature > 0


def _sampling(prompt: Prompt) -> tuple[float, ...]:
    """Return the temperature and what goes with it, which all prompts of a microbatch share."""
    params = prompt.params
    return (params.temperature, params.top_p, params.top_k, params.min_p) if params.temperature > 0 else ()
