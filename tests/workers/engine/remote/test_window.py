"""The window, before a simulated server with a clock of its own: no test waits."""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.remote.window import FIRST, LEAST_ANSWERS, Sent, Window


class Simulation:
    """A server with `places`, and workers that always have work; requests wait in the order of arrival."""

    def __init__(self, places: int, starts_s: tuple[float, ...], gauge: bool, seed: int) -> None:
        self.now, self.answered = 0.0, 0
        self.windows = [Window(64, lambda: self.now) for _ in starts_s]
        #: sizes of the windows at each second
        self.sizes: list[list[int]] = []
        self._places, self._starts_s, self._gauge = places, starts_s, gauge
        self._draw = random.Random(seed)
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._in_flight = [0] * len(starts_s)
        self._waiting: deque[tuple[int, Sent]] = deque()
        self._running = 0

    def run(self, seconds: float) -> None:
        self._tick()
        while self._due[0][0] < seconds:
            self.now, _, call, arguments = heapq.heappop(self._due)
            call(*arguments)

    def mean(self, worker: int, since_s: int) -> float:
        found = [sizes[worker] for sizes in self.sizes[since_s:]]
        return sum(found) / len(found)

    def _after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._order), call, arguments))

    def _tick(self) -> None:
        self.sizes.append([window.size for window in self.windows])
        for worker, window in enumerate(self.windows):
            if self._gauge:
                window.waiting(len(self._waiting), self._running)
            self._send(worker)
        self._after(1.0, self._tick)

    def _send(self, worker: int) -> None:
        while self.now >= self._starts_s[worker] and self._in_flight[worker] < self.windows[worker].size:
            self._in_flight[worker] += 1
            self._waiting.append((worker, self.windows[worker].sent(self._in_flight[worker])))
            self._serve()

    def _serve(self) -> None:
        while self._waiting and self._running < self._places:
            worker, sent = self._waiting.popleft()
            self._running += 1
            # the first piece after 0.1 s, the last after 1.1 s, give or take a third
            first_s = 0.1 * self._draw.uniform(0.7, 1.3)
            waited_s = self.now + first_s - sent.at
            self._after(first_s + self._draw.uniform(0.7, 1.3), self._end, worker, sent, waited_s)

    def _end(self, worker: int, sent: Sent, first_piece_s: float) -> None:
        self._running -= 1
        self._in_flight[worker] -= 1
        self.answered += 1
        self.windows[worker].answered(sent, first_piece_s)
        self._serve()
        self._send(worker)


@pytest.mark.parametrize("gauge", [True, False], ids=["gauge", "times"])
@settings(deadline=None, max_examples=10)
@given(places=st.integers(1, 32), seed=st.integers(0, 2**32))
def test_a_window_stays_near_what_the_server_can_do(gauge: bool, places: int, seed: int) -> None:
    simulation = Simulation(places, (0.0,), gauge, seed)
    simulation.run(120)
    # at least nine tenths of the answers that are possible, with a queue of about a quarter
    assert simulation.answered >= 0.85 * places * 120 / 1.1
    assert simulation.mean(0, since_s=40) <= 1.3 * places + 2


@pytest.mark.parametrize("gauge", [True, False], ids=["gauge", "times"])
@settings(deadline=None, max_examples=5)
@given(places=st.integers(8, 24), later_s=st.sampled_from([0.0, 60.0]), seed=st.integers(0, 2**32))
def test_two_workers_share_a_server_evenly(gauge: bool, places: int, later_s: float, seed: int) -> None:
    simulation = Simulation(places, (0.0, later_s), gauge, seed)
    simulation.run(400)
    shares = [simulation.mean(worker, since_s=200) for worker in range(2)]
    assert max(shares) <= 3.0 * min(shares)
    assert sum(shares) <= 1.6 * places + 2


steps = st.lists(st.tuples(st.sampled_from(["answered", "overloaded", "gauge"]), st.floats(0, 1000)), max_size=200)


@settings(deadline=None, max_examples=50)
@given(most=st.integers(1, 100), steps=steps)
def test_a_window_is_never_empty_or_larger_than_allowed(most: int, steps: list[tuple[str, float]]) -> None:
    now = [0.0]
    window = Window(most, lambda: now[0])
    for what, value in steps:
        sent = window.sent(window.size)
        now[0] += value
        match what:
            case "answered":
                window.answered(sent, value)
            case "overloaded":
                window.overloaded(sent)
            case "gauge":
                window.waiting(int(value), int(value / 2))
        assert 1 <= window.size <= most


def test_requests_of_one_size_halve_it_once() -> None:
    window = Window(64, lambda: 0.0)
    _grow(window, to=32)
    sent = [window.sent(n) for n in range(10)]
    for each in sent:
        window.overloaded(each)
    assert window.size == 16


def test_a_window_that_is_not_full_does_not_grow() -> None:
    window = Window(64, lambda: 0.0)
    for _ in range(100):
        window.answered(window.sent(1), 0.0)
    # with one place, one is all
    assert window.size == 2 * FIRST


def test_a_window_doubles_until_requests_wait_and_then_grows_by_one() -> None:
    window = Window(64, lambda: 0.0)
    _grow(window, to=16)
    window.waiting(16, 16)
    _round(window)
    assert window.size == 13
    window.waiting(0, 13)
    _round(window)
    assert window.size == 14


def _grow(window: Window, to: int) -> None:
    while window.size < to:
        _round(window)


def _round(window: Window) -> None:
    size = window.size
    for sent in [window.sent(size) for _ in range(max(size, LEAST_ANSWERS))]:
        window.answered(sent, 0.0)
