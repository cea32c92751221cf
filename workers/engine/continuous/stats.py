"""Counts what the engine computes."""

from __future__ import annotations

from dataclasses import replace

from workers.engine.continuous.scheduler import Batch
from workers.engine.continuous.transfer import AsyncTokens
from workers.engine.stats import Stats


class StatsCounter:
    """Adds up passes in the engine's thread; any thread may read `stats`."""

    def __init__(self) -> None:
        self.stats = Stats()
        self._last: AsyncTokens | None = None

    def begin(self) -> None:
        """Begin after an idle time: the duration of the first pass is unknown and counts as 0."""
        self._last = None

    def forget_longest_pass(self) -> None:
        """Measure the longest pass anew. Call it while nothing is computed."""
        self.stats = replace(self.stats, longest_pass_s=0.0)

    def count(self, batch: Batch, tokens: AsyncTokens) -> None:
        """Add the pass that was computed after the one counted last; its tokens must have been read."""
        seconds = tokens.seconds_after(self._last) if self._last is not None else 0.0
        self._last = tokens
        old, rows, steps = self.stats, len(batch.decode), int(not batch.chunks)
        self.stats = replace(
            old,
            passes=old.passes + 1,
            pass_s=old.pass_s + seconds,
            longest_pass_s=max(old.longest_pass_s, seconds if rows else 0.0),
            steps=old.steps + steps,
            step_s=old.step_s + steps * seconds,
            step_tokens=old.step_tokens + steps * rows,
            prompt_tokens=old.prompt_tokens + batch.num_tokens - rows,
            cached_tokens=old.cached_tokens + sum(chunk.start for chunk in batch.chunks if chunk.is_first),
            answer_tokens=old.answer_tokens + rows,
        )
