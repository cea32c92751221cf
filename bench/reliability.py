"""Reliability of probabilities: how often answers of a confidence are right (Guo et al., 2017, arXiv:1706.04599)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: bins of equal width from 0 to 1
BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers whose confidence is over `low` and at most `high`; the lowest bin includes 0."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def bins(answers: Sequence[tuple[float, bool]]) -> list[Bin]:
    """Group answers, each the probability of its text and whether it is right; without empty bins."""
    grouped: dict[int, list[tuple[float, bool]]] = {}
    for probability, right in answers:
        grouped.setdefault(max(0, math.ceil(probability * BINS) - 1), []).append((probability, right))
    return [
        Bin(
            number / BINS,
            (number + 1) / BINS,
            len(some),
            math.fsum(probability for probability, _ in some) / len(some),
            sum(right for _, right in some) / len(some),
        )
        for number, some in sorted(grouped.items())
    ]


def calibration_error(found: Sequence[Bin]) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy, weighted by count."""
    total = sum(each.count for each in found)
    return math.fsum(each.count * abs(each.accuracy - each.confidence) for each in found) / total


def table(answers: Sequence[tuple[float, bool]]) -> Iterator[str]:
    """Yield the lines of the reliability table."""
    found = bins(answers)
    yield f"{'probability':13} {'answers':>7} {'mean':>7} {'right':>7}"
    for each in found:
        yield (f"{each.low:.1f} to {each.high:.1f}    {each.count:7} {each.confidence:7.1%} {each.accuracy:7.1%}")
    yield f"expected calibration error: {calibration_error(found):.2%} of {len(answers)} answers"
