from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.workers.engine.conftest import SOON
from workers.engine.runtime.timers import Timers


@pytest.fixture
def timers() -> Iterator[Timers]:
    timers = Timers("test")
    timers.start()
    yield timers
    timers.stop()


def test_timers_fire_in_order_and_not_before_their_time(timers: Timers) -> None:
    rung: list[str] = []
    done = threading.Event()
    now = time.monotonic()
    timers.at(now + 0.1, lambda: rung.append("later"))
    timers.at(now + 0.1, done.set)
    timers.at(now + 0.05, lambda: rung.append("soon"))

    assert done.wait(SOON)
    assert time.monotonic() >= now + 0.1
    assert rung == ["soon", "later"]


def test_a_cancelled_timer_does_not_fire(timers: Timers) -> None:
    rung: list[str] = []
    done = threading.Event()
    now = time.monotonic()
    timers.at(now + 0.02, lambda: rung.append("cancelled")).cancel()
    timers.at(now + 0.04, done.set)

    assert done.wait(SOON)
    assert rung == []


def test_cancelled_timers_of_far_days_do_not_pile_up(timers: Timers) -> None:
    tomorrow = time.monotonic() + 86_400

    for _ in range(10_000):
        timers.at(tomorrow, lambda: None).cancel()

    assert len(timers._heap) < 500


def test_a_timer_that_fails_does_not_silence_the_others(timers: Timers, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    timers.at(time.monotonic(), lambda: [][0])
    timers.at(time.monotonic(), done.set)

    assert done.wait(SOON)
    assert "a timer failed" in caplog.text


def test_stopped_timers_do_not_fire() -> None:
    timers = Timers("test")
    rung = threading.Event()
    timers.start()
    timers.at(time.monotonic() + 0.05, rung.set)
    timers.stop()

    assert not rung.wait(0.1)


def test_a_timer_may_stop_all_timers() -> None:
    timers = Timers("test")
    stopped = threading.Event()
    timers.start()

    def stop() -> None:
        timers.stop()
        stopped.set()

    timers.at(time.monotonic(), stop)

    assert stopped.wait(SOON)
