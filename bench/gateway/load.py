"""Requests at a fixed rate or at a fixed number at once, and what they took."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

Ask = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Latencies:
    """Latencies of one kind of request, in seconds, of each run."""

    runs: Sequence[Sequence[float]]

    def ms(self, part: int) -> float:
        """Return, in ms, what `part` percent do not exceed: the median of the runs' percentiles."""
        return statistics.median(_percentile_ms(run, part) for run in self.runs)

    def __str__(self) -> str:
        medians = [_percentile_ms(run, 50) for run in self.runs]
        spread = f" ({min(medians):.1f} to {max(medians):.1f})" if len(medians) > 1 else ""
        return f"p50 {self.ms(50):.1f} ms{spread}, p95 {self.ms(95):.1f}, p99 {self.ms(99):.1f}"


def _percentile_ms(seconds: Sequence[float], part: int) -> float:
    return 1000 * statistics.quantiles(seconds, n=100, method="inclusive")[part - 1]


async def open_loop(ask: Ask, rate: float, for_s: float, seed: int = 0) -> list[float]:
    """Ask at random times, whether or not earlier requests have ended; return the seconds that each took.

    A request is timed from when it was due, so a stall counts for all requests behind it.
    """
    arrivals, latencies = random.Random(seed), list[float]()

    async def one(due: float) -> None:
        await ask()
        latencies.append(time.monotonic() - due)

    async with asyncio.TaskGroup() as group:
        due = time.monotonic()
        end = due + for_s
        while due < end:
            await asyncio.sleep(due - time.monotonic())
            group.create_task(one(due))
            due += arrivals.expovariate(rate)
    return latencies


async def closed_loop(ask: Ask, at_once: int, for_s: float) -> list[float]:
    """Keep `at_once` requests in progress; return the seconds that each took."""
    latencies: list[float] = []
    end = time.monotonic() + for_s

    async def one() -> None:
        while (began := time.monotonic()) < end:
            await ask()
            latencies.append(time.monotonic() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(one())
    return latencies
