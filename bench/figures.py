"""Repeated measurements, and rows of the table that is printed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """Several runs of one measurement, in operations per second."""

    runs: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def __str__(self) -> str:
        return f"{self.median:,.1f}/s ({min(self.runs):,.1f} to {max(self.runs):,.1f})"


def rate(count: int, work: Callable[[], object]) -> float:
    """Return operations per second of `work`, which does `count` of them."""
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def alternately(repeats: int, *measures: Callable[[], float]) -> list[Rate]:
    """Run each measurement `repeats` times, in turn, so that a busy machine affects all of them."""
    runs = [[measure() for measure in measures] for _ in range(repeats)]
    return [Rate(column) for column in zip(*runs, strict=True)]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    figure: str
    against: str
    wanted: str
    reached: bool

    @classmethod
    def ratio(cls, what: str, ours: Rate, rival: Rate, at_least: float, against: str) -> Row:
        """Compare the medians of ours and of the rival's runs."""
        ratio = ours.median / rival.median
        return cls(what, f"{ratio:.2f} = {ours}", f"{rival} {against}", f"at least {at_least:g}", ratio >= at_least)
