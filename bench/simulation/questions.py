"""What the simulation says about cards: how many for a load, how long a batch takes, what bulk does to others' waits.

`python -m bench.simulation.questions`; cards are one H200 each with the default model's shape, 256 slots.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.simulation import workloads
from bench.simulation.card import Card
from bench.simulation.jobs import Work, batch, percentile, poisson
from bench.simulation.system import System
from bench.simulation.worker import Setup
from bench.simulation.workloads import Kind

SLOTS = 256
#: of a job from the client to the engine: docs/benchmarks.md, a worker that is not busy
_HOP_S = 0.005
#: arrivals until then fill the cards, and are not counted
_WARM_UP_S = 20.0
_LEAST_S = 30.0
_SEED = 1


@dataclass(frozen=True)
class Latencies:
    """How long jobs of a lane waited for a slot and took altogether, in seconds, and how many ended."""

    waits: Sequence[float]
    totals: Sequence[float]

    @classmethod
    def of_ended(cls, works: Iterable[Work], lane: str = "interactive") -> Latencies:
        ended = [work for work in works if work.lane == lane and work.ended is not None and work.arrives >= _WARM_UP_S]
        return cls([work.waited_s for work in ended], [work.latency_s for work in ended])

    def __str__(self) -> str:
        waits = " / ".join(f"{percentile(self.waits, part):.2f}" for part in (50, 95, 99))
        totals = " / ".join(f"{percentile(self.totals, part):.2f}" for part in (50, 95, 99))
        return f"wait {waits} s, answer {totals} s (P50 / P95 / P99, {len(self.totals):,} jobs)"


def setup(cards: int) -> Setup:
    return Setup(cards, SLOTS, Card, hop_s=_HOP_S)


def most(kind: Kind, cards: int = 1, rows: int = 4000) -> float:
    """Return jobs a second while all slots are full: between the first and the last quarter of a batch."""
    works = System(setup(cards)).run(batch(0.0, rows * cards, kind(random.Random(_SEED), "bulk")))
    ends = sorted(work.ended for work in works if work.ended is not None)
    first, last = len(ends) // 4, 3 * len(ends) // 4
    return (last - first) / (ends[last] - ends[first])


def under_load(kind: Kind, cards: int, rate: float, seconds: float, bulk_rate: float = 0.0) -> Latencies:
    """Return interactive latencies at `rate` jobs a second; beside bulk that would fill the cards if it has a rate."""
    draw = random.Random(_SEED)
    arrivals: list[Iterable[Work]] = [
        poisson(rate, _WARM_UP_S + seconds, kind(draw, "interactive"), random.Random(_SEED + 1))
    ]
    until_s = _WARM_UP_S + seconds
    if bulk_rate:
        arrivals.append(batch(0.0, round(bulk_rate * until_s), kind(random.Random(_SEED + 2), "bulk")))
        return Latencies.of_ended(System(setup(cards)).run(*arrivals, until_s=until_s))
    return Latencies.of_ended(System(setup(cards)).run(*arrivals))


def cards_for(kind: Kind, rate: float, most_s: float, seconds: float, each: float) -> int:
    """Return the fewest cards that answer `rate` jobs a second with a P95 of `most_s`; `each` is a full card's rate."""

    def suffice(cards: int) -> bool:
        return percentile(under_load(kind, cards, rate, seconds).totals, 95) <= most_s

    few = cards = max(1, int(rate / each))
    while not suffice(cards):
        few, cards = cards, max(cards + 1, int(cards * 1.4))
    while cards - few > 1:
        middle = (few + cards) // 2
        few, cards = (few, middle) if suffice(middle) else (middle, cards)
    return cards


def loads(seconds: float, full: float, fleets: Sequence[int] = (1, 8, 64)) -> Iterator[str]:
    """Yield latencies by how much of the cards is used."""
    for cards in fleets:
        for part in (0.5, 0.7, 0.8, 0.9, 0.95):
            rate = part * cards * full
            # many cards have as many jobs in a shorter time
            found = under_load(workloads.w2, cards, rate, max(_LEAST_S, seconds / cards))
            yield f"{cards} cards at {part:.0%} ({rate:,.0f} jobs/s): {found}"


def needed(seconds: float, full: float) -> Iterator[str]:
    """Yield numbers of cards."""
    for rate in (10, 100, 1000):
        for most_s in (3.0, 4.0, 6.0, 8.0):
            span = max(_LEAST_S, min(seconds, 20_000 / rate))
            cards = cards_for(workloads.w2, rate, most_s, span, full)
            yield f"{rate:,} jobs/s with P95 within {most_s:g} s: {cards} cards, {rate / cards:.1f} jobs/s each"


def beside_bulk(seconds: float, full: float, fleets: Sequence[int] = (1, 8)) -> Iterator[str]:
    """Yield what a full queue of bulk jobs does to interactive ones."""
    for cards in fleets:
        rate, span = cards * full, max(_LEAST_S, seconds / cards)
        for part in (0.2, 0.5):
            for bulk_rate in (0.0, rate):
                found = under_load(workloads.w2, cards, part * rate, span, bulk_rate)
                yield f"{cards} cards, interactive at {part:.0%} {'beside bulk' if bulk_rate else 'alone'}: {found}"


def batches(seconds: float, full: float, fleets: Sequence[int] = (1, 8, 64)) -> Iterator[str]:
    """Yield how long a batch takes."""
    for cards in fleets:
        hours = [1e6 / most(kind, cards, 1500) / 3600 for kind in (workloads.w1, workloads.w2)]
        yield f"1,000,000 rows on {cards} cards: W1 {hours[0]:.2f} h, W2 {hours[1]:.2f} h"


def thousand(seconds: float, full: float) -> Iterator[str]:
    """Yield latencies of a thousand cards, as if one Redis could feed them."""
    yield f"1,000 cards at 80%: {under_load(workloads.w2, 1000, 800 * full, 10.0)}"


PARTS = {each.__name__: each for each in (loads, needed, beside_bulk, batches, thousand)}


def main() -> None:
    """Print the answers."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulation.questions", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="simulated, for one card")
    parser.add_argument("--only", choices=PARTS, help="one of the questions (default: all)")
    options = parser.parse_args()
    full = {name: most(kind) for name, kind in (("W1", workloads.w1), ("W2", workloads.w2))}
    print(f"all slots full: W1 {full['W1']:.1f}, W2 {full['W2']:.1f} jobs/s a card; all else is W2", flush=True)
    for part in [options.only] if options.only else PARTS:
        for line in PARTS[part](options.seconds, full["W2"]):
            print(line, flush=True)


if __name__ == "__main__":
    main()
