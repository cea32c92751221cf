"""Would a batch end sooner if its longest answers went first? `python -m bench.queue.longest_first`: a simulation.

The engine is the continuous one on an H200, by its figures in docs/benchmarks.md: 128 slots, 20.3 ms to compute a
prompt's image, and steps whose time grows with the running sequences. Prompts are computed when a slot is free, between
two steps. The order is that of submission; of the answers' true lengths, which nobody knows beforehand; or of what can
be known: the mean length of the earlier answers to the same question. The first rows then go as submitted, since their
messages are published before an answer is there: as many as there are slots, and twice as many that are queued. With
`shared`, the rows about an image stand together, and all but the first take its features from the engine's cache.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_SLOTS = 128
_PREFILL_S = 0.0203
#: most prompts that one pass computes
_PROMPTS = 4
#: running sequences -> seconds of a step
_STEPS_S = {1: 0.0038, 8: 0.0089, 32: 0.0151, 64: 0.0173, 128: 0.0188}
#: images whose features are kept
_CACHED = 1000
_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Question:
    """A row: which of the batch's questions it asks, and the tokens of its answer."""

    kind: int
    tokens: int
    image: int


Order = Callable[[list[Question]], list[Question]]


def seconds(rows: Sequence[Question]) -> float:
    """Return how long the engine takes for all rows in this order."""
    now_s, waiting, running = 0.0, list(reversed(rows)), list[int]()
    # insertion order is age
    cached: dict[int, None] = {}
    while waiting or running:
        for _ in range(min(_PROMPTS, _SLOTS - len(running), len(waiting))):
            row = waiting.pop()
            running.append(row.tokens)
            now_s += 0 if row.image in cached else _PREFILL_S
            cached[row.image] = None
            if len(cached) > _CACHED:
                del cached[next(iter(cached))]
        # the next tokens of all; no prompt joins before the shortest has ended
        steps = 1 if waiting and len(running) < _SLOTS else min(running)
        now_s += steps * step_s(len(running))
        running = [left - steps for left in running if left > steps]
    return now_s


def step_s(sequences: int) -> float:
    """Return the seconds of a step, between the measured sizes on a line."""
    sizes = sorted(_STEPS_S)
    above = next((size for size in sizes if size >= sequences), sizes[-1])
    below = max([size for size in sizes if size <= sequences], default=above)
    if above == below:
        return _STEPS_S[above]
    share = (sequences - below) / (above - below)
    return _STEPS_S[below] * (1 - share) + _STEPS_S[above] * share


def by_length(rows: list[Question]) -> list[Question]:
    """Longest first, as if the lengths were known."""
    return sorted(rows, key=lambda row: -row.tokens)


def by_question(rows: list[Question]) -> list[Question]:
    """Longest first by the mean length of the first answers to the same question, for the rows behind these."""
    first, rest = rows[: 3 * _SLOTS], rows[3 * _SLOTS :]
    kinds = {row.kind for row in first}
    means = {kind: statistics.mean(row.tokens for row in first if row.kind == kind) for kind in kinds}
    return first + sorted(rest, key=lambda row: -means.get(row.kind, 0))


def one_question(count: int, generator: random.Random) -> list[Question]:
    """A caption for each image: 8 to 256 tokens."""
    return [Question(0, generator.randint(8, 256), image) for image in range(count)]


def shared(count: int, generator: random.Random) -> list[Question]:
    """Of each image a word, and a description; its rows stand together."""
    return [_row(number % 2 == 1, number // 2, generator) for number in range(count)]


def one_in_ten(count: int, generator: random.Random) -> list[Question]:
    """Of ten images nine are asked for a word, and one for a description."""
    return [_row(generator.random() < 0.1, image, generator) for image in range(count)]


def long_ones_last(count: int, generator: random.Random) -> list[Question]:
    """As `one_in_ten`, with the descriptions in the last tenth of the file, but for some that are learnt from."""
    rows = one_in_ten(count, generator)
    return rows[: _SLOTS // 2] + sorted(rows[_SLOTS // 2 :], key=lambda row: row.kind)


def _row(describes: bool, image: int, generator: random.Random) -> Question:
    return Question(int(describes), generator.randint(128, 256) if describes else generator.randint(2, 4), image)


BATCHES = (one_question, shared, one_in_ten, long_ones_last)


def main() -> None:
    for make in BATCHES:
        for count in (500, 1000, 3000, 10_000):
            gains: dict[str, list[float]] = {"length": [], "question": []}
            took: list[float] = []
            for seed in range(_REPEATS):
                rows = make(count, random.Random(seed))
                took.append(seconds(rows))
                for name, order in (("length", by_length), ("question", by_question)):
                    gains[name].append(1 - seconds(order(rows)) / took[-1])
            shown = ", ".join(f"by {name} {statistics.median(each):+.1%}" for name, each in gains.items())
            print(f"{make.__name__}, {count:,} rows: {statistics.median(took):.1f} s; shorter {shown}")


if __name__ == "__main__":
    main()
