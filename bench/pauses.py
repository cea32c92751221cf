"""Measures how long answers pause while they are generated: the seconds between two texts of one answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from workers.tune.trial import Question


class Pauses:
    """The longest pause of each of some answers. Listens in the engine's thread."""

    def __init__(self) -> None:
        self._answers: list[_Answer] = []

    def heard(self, questions: Sequence[Question]) -> list[Question]:
        """Return the questions with their answers' texts timed."""
        answers = [_Answer() for _ in questions]
        self._answers += answers
        return [replace(each, on_text=answer.hear) for each, answer in zip(questions, answers, strict=True)]

    @property
    def longest_s(self) -> float:
        return max((answer.longest_s for answer in self._answers), default=0.0)


class _Answer:
    def __init__(self) -> None:
        self._last: float | None = None
        self.longest_s = 0.0

    def hear(self, text: str) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.longest_s = max(self.longest_s, now - self._last)
        self._last = now
