"""What the engine has done so far, counted: for benchmarks and for whoever tunes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from workers.engine.continuous.scheduler import PrefillWork, StepWork
from workers.engine.continuous.transfer import Tokens


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums since the engine's start; seconds are from one piece of work's end to the next one's."""

    steps: int = 0
    #: tokens that the steps made, of which some may have been for nobody
    step_tokens: int = 0
    step_s: float = 0.0
    prefills: int = 0
    prefilled_tokens: int = 0
    prefill_s: float = 0.0
    longest_prefill_s: float = 0.0


class Counter:
    """Adds up what has been computed. Belongs to the engine's thread; anybody may read `figures`."""

    def __init__(self) -> None:
        self.figures = Figures()
        self._last: Tokens | None = None

    def begin(self) -> None:
        """Work begins after a time without any, so what the first piece of it takes is not known."""
        self._last = None

    def count(self, work: PrefillWork | StepWork, tokens: Tokens) -> None:
        """This was computed after what was counted before, and its tokens have been read."""
        old = self.figures
        took_s = tokens.seconds_after(self._last) if self._last is not None else 0.0
        self._last = tokens
        match work:
            case StepWork(stays):
                self.figures = replace(
                    old, steps=old.steps + 1, step_tokens=old.step_tokens + len(stays), step_s=old.step_s + took_s
                )
            case PrefillWork(parts):
                self.figures = replace(
                    old,
                    prefills=old.prefills + 1,
                    prefilled_tokens=old.prefilled_tokens + sum(part.stop - part.start for part in parts),
                    prefill_s=old.prefill_s + took_s,
                    longest_prefill_s=max(old.longest_prefill_s, took_s),
                )
