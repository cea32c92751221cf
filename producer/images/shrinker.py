"""Shrinks the images of jobs by what the workers that are up say about the sizes that their models see."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Self

from producer.images.shrink import Shrink, shrunk
from vqa.errors import QueueUnavailable
from vqa.forks import restart_in_children
from vqa.images.fit import Fit
from vqa.images.limits import FileLimits
from vqa.jobs.message import Detail
from vqa.ledger.records import WorkerInfo

log = logging.getLogger(__name__)

#: seconds between two looks at the workers
_FRESH_S = 10.0

#: as `workers.engine.detail` has it
_LOW_TOKENS, _HIGH_TOKENS = 256, 4096

#: of Qwen3-VL, where no worker says otherwise
_QWEN3_VL = Fit(factor=32, min_pixels=65_536, max_pixels=_HIGH_TOKENS * 32**2)


@dataclass(frozen=True, slots=True)
class Sight:
    """The sizes at which a worker's model sees images."""

    #: at the highest detail
    fit: Fit
    #: most tokens of an image whose `detail` is auto
    auto: int

    @classmethod
    def from_about(cls, about: Mapping[str, Any]) -> Self | None:
        """Read a worker's description of itself; None if it says nothing of sizes."""
        try:
            told = about["fit"]
            factor, low, usual, high = (int(told[name]) for name in ("factor", "min_pixels", "max_pixels", "high"))
            return cls(Fit(factor, low, high, int(told["resample"])), usual // factor**2)
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None

    def with_tokens(self, tokens: int) -> Self:
        """Return this with another number for `auto`."""
        most = max(self.fit.max_pixels, tokens * self.fit.factor**2)
        return replace(self, fit=replace(self.fit, max_pixels=most), auto=tokens)

    def at(self, detail: Detail, max_image_tokens: int | None) -> Fit:
        """Return the sizes of an image of a job, as `workers.engine.detail` has them."""
        high = self.fit.max_pixels // self.fit.factor**2
        tokens = {"low": min(_LOW_TOKENS, self.auto), "auto": self.auto, "high": high}[detail]
        return self.fit.capped(min(tokens, max_image_tokens or tokens) * self.fit.factor**2)


@dataclass(slots=True)
class Saved:
    """What shrinking has saved."""

    images: int = 0
    #: bytes of these images as they were, and as they were stored
    before: int = 0
    after: int = 0

    @property
    def bytes(self) -> int:
        """Bytes that were not stored."""
        return self.before - self.after

    def __str__(self) -> str:
        return f"{self.images:,} images shrunk: {_megabytes(self.after)} stored instead of {_megabytes(self.before)}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


class Shrinker:
    """Shrinks images, in any number of threads; as many at once as the machine has cores."""

    def __init__(self, how: Shrink, limits: FileLimits, workers: Callable[[], Sequence[WorkerInfo]]) -> None:
        self._how = how
        self._limits = limits
        self._workers = workers
        self._sight: Sight | None = None
        self._looked = -_FRESH_S
        self._warned = False
        self.saved = Saved()
        self.start()
        restart_in_children(self)

    def start(self) -> None:
        """Make new locks: a forked child calls it again, since threads that it has not may hold the parent's."""
        self._cores = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._lock = threading.Lock()

    def fit(self, detail: Detail, max_image_tokens: int | None) -> Fit | None:
        """Return the sizes at which an image is seen; None, and a line in the log, if they are not known."""
        sight = self._current()
        return None if sight is None else sight.at(detail, max_image_tokens)

    def shrink(self, data: bytes, fit: Fit) -> bytes:
        """Return the image at the size at which it will be seen, or as it is (`shrunk`)."""
        with self._cores:
            smaller = shrunk(data, fit, self._limits, self._how.quality)
        if smaller is not data:
            with self._lock:
                self.saved.images += 1
                self.saved.before += len(data)
                self.saved.after += len(smaller)
        return smaller

    def _current(self) -> Sight | None:
        with self._lock:
            if time.monotonic() - self._looked >= _FRESH_S:
                self._look()
                self._looked = time.monotonic()
            return self._sight

    def _look(self) -> None:
        try:
            told = {Sight.from_about(worker.about) for worker in self._workers()}
        except QueueUnavailable:
            # what is submitted next says so
            return
        if self._how.tokens is not None:
            told = _with_tokens(told, self._how.tokens)
        if len(told) == 1 and None not in told:
            [self._sight] = told
        elif told or self._sight is None:
            # while no worker is up, those that come back are taken to be the same
            self._sight = None
            self._warn(told)

    def _warn(self, told: Set[Sight | None]) -> None:
        if self._warned:
            return
        self._warned = True
        why = "no worker is up that says how large its model sees them"
        if None in told:
            why = "a worker does not say how large its model sees them"
        elif told:
            why = "the workers' models see them in different sizes"
        log.warning("images are sent as they are, not shrunk: %s; a number of tokens helps (--shrink-tokens)", why)


def _with_tokens(told: Set[Sight | None], tokens: int) -> set[Sight | None]:
    known = {sight.with_tokens(tokens) for sight in told if sight is not None}
    return {*known} or {Sight(_QWEN3_VL, tokens).with_tokens(tokens)}
