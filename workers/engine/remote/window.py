"""How many requests a server is sent at once: a window that finds its size by itself.

It grows by one a round and shrinks by a factor (additive increase, multiplicative decrease, as TCP's; Chiu and Jain,
1989), since then several workers that share a server come to shares of the same size. A round is as many answers as the
window has places. At its end the share of all requests that wait inside the server decides. All workers see the same:

- by the server's own gauges, where it has them (`workers.engine.remote.gauge`), or
- by Little's law: requests wait for as large a share of their time as their first piece takes longer than without a
  queue. So a server with continuous batching, which answers all the slower the more it has to do, is filled until
  prompts wait. What a first piece takes without a queue is the least that was seen, which is seen again each time that
  the window shrinks and the queue is empty; it is forgotten slowly, since prompts may become longer.

Until requests first wait, the window doubles each round (slow start). It shrinks at once, by half, when a server says
that it is overloaded or does not answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

#: places at the beginning: the first answer's time is one without a queue
FIRST = 1

#: answers that a round has at least after the slow start, so that their mean says something
LEAST_ANSWERS = 4

#: With a larger share of waiting requests it shrinks. A few must wait, or the server would idle between an answer and
#: the next request.
_MOST_WAITING = 0.2

#: a window whose own part of the waiting requests is no more than this does not shrink
_LEAST_WAITING = 1.0

#: With gauges, by little. Without, by enough to empty the queue, so that the time without one is seen.
_SHRINK_BY_GAUGE, _SHRINK_BY_TIME, _OVERLOAD = 0.85, 0.7, 0.5

#: how much of the difference to the latest the least time of a first piece follows in each round
_FORGET = 0.03

#: seconds for which gauges count
_FRESH_S = 3.0


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was sent: under which size of the window, and when."""

    epoch: int
    at: float
    #: whether it took the last place
    full: bool


class Window:
    """The window of one server; belongs to one thread."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._size = float(min(FIRST, most))
        self._slow_start = True
        #: counts changes of the size: what was sent before one says nothing about it
        self._epoch = 0
        #: seconds of a first piece without a queue
        self._least_s = float("inf")
        #: share of requests that wait inside the server, and when it said so
        self._gauge: tuple[float, float] | None = None
        # of this round
        self._answers, self._full = 0, False
        self._first_s, self._whole_s = 0.0, 0.0

    @property
    def size(self) -> int:
        """Requests that may be under way, at least 1."""
        return int(self._size)

    def sent(self, in_flight: int) -> Sent:
        """Count a request; `in_flight` are under way with it."""
        return Sent(self._epoch, self._clock(), in_flight >= self.size)

    def answered(self, sent: Sent, first_piece_s: float) -> None:
        """Count an answer that ends now, and whose first piece came that long after the request."""
        if sent.epoch != self._epoch:
            return
        self._answers += 1
        self._first_s += first_piece_s
        self._whole_s += max(first_piece_s, self._clock() - sent.at)
        self._full = self._full or sent.full
        if self._answers >= max(self.size, 1 if self._slow_start else LEAST_ANSWERS):
            self._end()

    def overloaded(self, sent: Sent) -> None:
        """Shrink by half, once for all requests that were sent at this size."""
        if sent.epoch == self._epoch:
            self._slow_start = False
            self._resize(self._size * _OVERLOAD)

    def waiting(self, waiting: int, running: int) -> None:
        """Note how many requests wait inside the server and how many run, by its own gauges."""
        self._gauge = (waiting / max(1, waiting + running), self._clock())

    def _end(self) -> None:
        """End a round."""
        first_s, whole_s = self._first_s / self._answers, max(self._whole_s / self._answers, 1e-6)
        self._least_s = min(first_s, self._least_s + _FORGET * max(0.0, first_s - self._least_s))
        has_gauge = self._gauge is not None and self._clock() - self._gauge[1] <= _FRESH_S
        share = self._gauge[0] if has_gauge and self._gauge else (first_s - self._least_s) / whole_s
        if share > _MOST_WAITING and share * self._size > _LEAST_WAITING:
            self._slow_start = False
            self._resize(self._size * (_SHRINK_BY_GAUGE if has_gauge else _SHRINK_BY_TIME))
        elif self._full:
            self._resize(self._size * 2 if self._slow_start else self._size + 1)
        else:
            self._begin()

    def _resize(self, size: float) -> None:
        self._size = max(1.0, min(float(self._most), size))
        self._epoch += 1
        self._begin()

    def _begin(self) -> None:
        self._answers, self._full = 0, False
        self._first_s, self._whole_s = 0.0, 0.0
