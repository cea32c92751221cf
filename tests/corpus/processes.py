"""Judges in processes of their own, so that each measures only what its own files take."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.corpus.judge import Judge, Verdict
from tests.corpus.registry import make

_judge: Judge


def _start() -> None:
    global _judge
    # Pillow warns of each damaged tag, and a pool of each replaced child
    warnings.simplefilter("ignore")
    logging.disable()
    _judge = Judge()


def _judged(seed: int, name: str) -> Verdict:
    return _judge.judge(make(seed, name))


def verdicts(seed: int, chosen: Sequence[str], processes: int) -> Iterator[Verdict]:
    """Judge files in several processes, each with a pool of its own."""
    with ProcessPoolExecutor(processes, get_context("spawn"), _start) as pool:
        yield from pool.map(_judged, [seed] * len(chosen), chosen, chunksize=1)
