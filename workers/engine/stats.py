"""What an engine has computed, for benchmarks, tuning and metrics. Needs no torch: a worker reads it, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Stats:
    """Sums since the engine started, but for the blocks.

    The seconds of a pass run from the end of the previous pass to its own end.
    """

    passes: int = 0
    pass_s: float = 0.0
    #: the longest of those in which sequences decode, since `forget_longest_pass`
    longest_pass_s: float = 0.0
    #: passes without chunks of prompts, which are counted above, too
    steps: int = 0
    step_s: float = 0.0
    step_tokens: int = 0
    #: of prompts: computed, and found in the cache
    prompt_tokens: int = 0
    cached_tokens: int = 0
    #: computed for sequences that decode, discarded ones included; the first token of an answer is the prompt's
    answer_tokens: int = 0
    #: of the KV cache, now: all blocks, and those of sequences in slots
    blocks: int = 0
    blocks_used: int = 0


@runtime_checkable
class HasStats(Protocol):
    """An engine that counts what it computes."""

    def stats(self) -> Stats:
        """Return what has been computed since the start."""

    def forget_longest_pass(self) -> None:
        """Measure the longest pass anew."""
