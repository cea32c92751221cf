"""Bounds the bytes of images that a worker holds at once, and says how many they are."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vqa.errors import DeadlineExceeded, EngineError
from workers.media.limits import ImageLimits

#: decoded images planned for each task thread; a job with more waits if other jobs hold as many
_THREAD_IMAGES = 4

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class MediaPlan:
    """The most bytes that a worker holds of images; `str()` gives the line that is printed at start."""

    processes: int
    #: encoded images that are fetched and not yet decoded
    encoded_bytes: int
    #: what all decoder processes use together, beside their own 25 MiB each
    decoding_bytes: int
    #: pixels of jobs from decoding until they are answered
    pixel_bytes: int

    @classmethod
    def create(cls, processes: int, threads: int, limits: ImageLimits) -> MediaPlan:
        """Plan for a worker with so many task threads."""
        encoded = fetchers(processes) * limits.max_bytes
        # all that one job may have, and usual images for the threads
        pixels = max(limits.max_images * limits.image_bytes, _THREAD_IMAGES * threads * limits.usual_image_bytes)
        return cls(processes, encoded, limits.decoding_bytes, pixels)

    def __str__(self) -> str:
        return (
            f"images: at most {self.encoded_bytes // _MIB:,} MiB encoded, {self.decoding_bytes // _MIB:,} MiB while "
            f"decoded by {self.processes} processes, {self.pixel_bytes // _MIB:,} MiB decoded"
        )


def fetchers(processes: int) -> int:
    """Return the number of threads that fetch images: the next one comes while another is decoded."""
    return 2 * processes


class Budget:
    """So many bytes, shared by threads. Whoever came first gets them first."""

    def __init__(self, total: int) -> None:
        self._free = self._total = total
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._closed = False

    @contextmanager
    def holding(self, amount: int, deadline: float = math.inf) -> Iterator[None]:
        """Wait for `amount` bytes and hold them; more than there are count as all of them.

        `deadline` is a time of `time.monotonic()`. Raises DeadlineExceeded, and EngineError once closed.
        """
        amount = min(amount, self._total)
        self._take(amount, deadline)
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self, amount: int, deadline: float) -> None:
        me = object()
        with self._changed:
            self._queue.append(me)
            try:
                while self._queue[0] is not me or self._free < amount:
                    if self._closed:
                        raise EngineError("the worker is stopping")
                    left_s = None if deadline == math.inf else deadline - time.monotonic()
                    if left_s is not None and left_s <= 0:
                        raise DeadlineExceeded("the deadline passed before there was memory for the job's images")
                    self._changed.wait(left_s)
                self._free -= amount
            finally:
                self._queue.remove(me)
                # the next one may fit too
                self._changed.notify_all()
