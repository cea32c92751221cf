"""Counts what the engine computes, for benchmarks and tuning."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workers.engine.continuous.scheduler import Batch, DecodeBatch, PrefillBatch
from workers.engine.continuous.transfer import AsyncTokens


@dataclass(frozen=True, slots=True)
class Stats:
    """Sums since the engine started. The seconds of a batch run from the end of the previous batch to its own end."""

    steps: int = 0
    #: tokens of the steps, discarded ones included
    step_tokens: int = 0
    step_s: float = 0.0
    prefills: int = 0
    prefilled_tokens: int = 0
    prefill_s: float = 0.0
    longest_prefill_s: float = 0.0


class StatsCounter:
    """Adds up batches in the engine's thread; any thread may read `stats`."""

    def __init__(self) -> None:
        self.stats = Stats()
        self._last: AsyncTokens | None = None

    def begin(self) -> None:
        """Begin after an idle time: the duration of the first batch is unknown and counts as 0."""
        self._last = None

    def count(self, batch: Batch, tokens: AsyncTokens) -> None:
        """Add the batch that was computed after the one counted last; its tokens must have been read."""
        old = self.stats
        seconds = tokens.seconds_after(self._last) if self._last is not None else 0.0
        self._last = tokens
        match batch:
            case DecodeBatch(sequences):
                self.stats = replace(
                    old, steps=old.steps + 1, step_tokens=old.step_tokens + len(sequences), step_s=old.step_s + seconds
                )
            case PrefillBatch():
                self.stats = replace(
                    old,
                    prefills=old.prefills + 1,
                    prefilled_tokens=old.prefilled_tokens + batch.num_tokens,
                    prefill_s=old.prefill_s + seconds,
                    longest_prefill_s=max(old.longest_prefill_s, seconds),
                )
