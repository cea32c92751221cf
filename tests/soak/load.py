"""Makes calls at fixed mean rates from many threads."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from tests.soak.tally import LATE, Tally
from vqa.errors import DeadlineExceeded, QueueUnavailable

#: calls at once; while a killed worker's jobs wait for its lease, a few dozen wait
_THREADS = 100
#: calls under way beyond which none begins
_MOST = 300


class Load:
    """A context manager: begins calls in the background until `stop`, and waits for those under way at its end."""

    def __init__(self, rates: Mapping[Callable[[], None], float], tally: Tally) -> None:
        self._rates = rates
        self._tally = tally
        self._stopping = threading.Event()
        self._under_way = 0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="load")
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> Self:
        # all threads at once, so that their number says nothing
        barrier = threading.Barrier(_THREADS + 1)
        for _ in range(_THREADS):
            self._threads.submit(barrier.wait)
        barrier.wait()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        self._threads.shutdown(cancel_futures=True)

    def stop(self) -> None:
        """Begin no further calls, and wait for those under way."""
        self._stopping.set()
        self._thread.join()
        while self._under_way:
            time.sleep(0.1)

    def _run(self) -> None:
        now = time.monotonic()
        due = [(now + random.expovariate(rate), number) for number, rate in enumerate(self._rates.values())]
        calls = list(self._rates.items())
        heapq.heapify(due)
        while not self._stopping.wait(max(0.0, due[0][0] - time.monotonic())):
            at, number = due[0]
            call, rate = calls[number]
            # exponential gaps make a Poisson process
            heapq.heapreplace(due, (at + random.expovariate(rate), number))
            self._begin(call)

    def _begin(self, call: Callable[[], None]) -> None:
        with self._lock:
            if self._under_way >= _MOST:
                self._tally.end("load", "left out")
                return
            self._under_way += 1
        self._threads.submit(call).add_done_callback(lambda future: self._ended(call.__qualname__, future))

    def _ended(self, name: str, future: Future[None]) -> None:
        with self._lock:
            self._under_way -= 1
        if future.cancelled() or (error := future.exception()) is None:
            return
        if isinstance(error, QueueUnavailable | DeadlineExceeded):
            self._tally.end(name, LATE)
        else:
            self._tally.fault("lost", f"{name}: {type(error).__name__}: {str(error)[:200]}")
