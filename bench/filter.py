"""The word filter: an answer of 300 characters against 100,000 entries, and one alternation of `re` as the rival.

Half of the entries are Chinese, half words of syllables, as are the answers; one in four answers has an entry in it.
"""

from __future__ import annotations

import random
import re
import statistics
import time
from collections.abc import Callable, Sequence

from bench.figures import Row
from workers.filter.folding import Folds
from workers.filter.matcher import Matcher
from workers.filter.settings import DEFAULT, Actions
from workers.filter.word_filter import WordFilter
from workers.filter.word_list import WordList

ENTRIES = 100_000
CHARACTERS = 300
ANSWERS = 1000
#: answers that the rival is given: it takes ten thousand times as long
RIVALS_ANSWERS = 4
MOST_S = 1e-4
AT_LEAST = 20

_SYLLABLES = [a + b for a in "bcdfghklmnprstvwz" for b in "aeiou"]
#: the first of the common ideographs
_IDEOGRAPHS = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]


def entries(draw: random.Random) -> list[str]:
    """Return different entries."""
    found: dict[str, None] = {}
    while len(found) < ENTRIES // 2:
        found["".join(draw.choices(_SYLLABLES, k=draw.randint(3, 6)))] = None
    while len(found) < ENTRIES:
        found["".join(draw.choices(_IDEOGRAPHS, k=draw.randint(3, 6)))] = None
    return list(found)


def answers(draw: random.Random, words: Sequence[str]) -> list[str]:
    """Return texts in Chinese and in words of syllables, in turn."""
    texts = []
    for number in range(ANSWERS):
        if number % 2:
            text = "".join(draw.choices(_IDEOGRAPHS, k=CHARACTERS))
        else:
            text = " ".join("".join(draw.choices(_SYLLABLES, k=draw.randint(1, 5))) for _ in range(CHARACTERS // 5))
        middle = f" {draw.choice(words)} " if number % 4 == 0 else " "
        texts.append(f"{text[:150]}{middle}{text[150:]}"[:CHARACTERS])
    return texts


def times_s(work: Callable[[str], object], texts: Sequence[str]) -> list[float]:
    """Return how long each text takes, sorted; the least of three, as the machine may have other work."""
    found = []
    for text in texts:
        runs = []
        for _ in range(3):
            started = time.perf_counter()
            work(text)
            runs.append(time.perf_counter() - started)
        found.append(min(runs))
    return sorted(found)


def rows() -> list[Row]:
    draw = random.Random(7)
    words, plain = entries(draw), Folds()
    listed = WordList(False, tuple((number, word, DEFAULT) for number, word in enumerate(words, 1)), "words")
    started = time.perf_counter()
    ours = WordFilter(Matcher(listed.entries(plain, plain), plain, plain), Actions())
    load_s = time.perf_counter() - started
    texts = answers(draw, words)
    times = times_s(ours.apply, texts)
    p50, p99 = statistics.median(times), times[int(len(times) * 0.99)]
    # case is folded before, as `re.IGNORECASE` is three times slower still
    pattern = re.compile("|".join(sorted(map(re.escape, words), key=len, reverse=True)))
    rival = statistics.median(times_s(lambda text: pattern.sub("*", text.casefold()), texts[:RIVALS_ANSWERS]))
    what = f"word filter: {ENTRIES:,} entries, {CHARACTERS} characters"
    figure = f"p50 {p50 * 1e6:.0f} µs, p99 {p99 * 1e6:.0f} µs; lists loaded in {load_s:.1f} s"
    against = f"{rival * 1e6:,.0f} µs (re, an alternation)"
    return [
        Row(what, figure, "", f"p50 at most {MOST_S * 1e6:g} µs", p50 <= MOST_S),
        Row(f"{what}, against re", f"{rival / p50:.0f}", against, f"at least {AT_LEAST}", rival / p50 >= AT_LEAST),
    ]
