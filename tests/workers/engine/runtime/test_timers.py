from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.workers.engine.conftest import SOON
from workers.engine.runtime.timers import Clock


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock("test")
    clock.start()
    yield clock
    clock.stop()


def test_alarms_ring_in_order_and_not_before_their_time(clock: Clock) -> None:
    rung: list[str] = []
    done = threading.Event()
    now = time.monotonic()
    clock.at(now + 0.1, lambda: rung.append("later"))
    clock.at(now + 0.1, done.set)
    clock.at(now + 0.05, lambda: rung.append("soon"))

    assert done.wait(SOON)
    assert time.monotonic() >= now + 0.1
    assert rung == ["soon", "later"]


def test_an_alarm_that_was_cancelled_does_not_ring(clock: Clock) -> None:
    rung: list[str] = []
    done = threading.Event()
    now = time.monotonic()
    clock.at(now + 0.02, lambda: rung.append("cancelled")).cancel()
    clock.at(now + 0.04, done.set)

    assert done.wait(SOON)
    assert rung == []


def test_cancelled_alarms_of_far_days_do_not_pile_up(clock: Clock) -> None:
    tomorrow = time.monotonic() + 86_400

    for _ in range(10_000):
        clock.at(tomorrow, lambda: None).cancel()

    assert len(clock._alarms) < 500


def test_an_alarm_that_fails_does_not_silence_the_others(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    clock.at(time.monotonic(), lambda: [][0])
    clock.at(time.monotonic(), done.set)

    assert done.wait(SOON)
    assert "an alarm failed" in caplog.text


def test_a_stopped_clock_rings_no_more() -> None:
    clock = Clock("test")
    rung = threading.Event()
    clock.start()
    clock.at(time.monotonic() + 0.05, rung.set)
    clock.stop()

    assert not rung.wait(0.1)


def test_an_alarm_may_stop_its_clock() -> None:
    clock = Clock("test")
    stopped = threading.Event()
    clock.start()

    def stop() -> None:
        clock.stop()
        stopped.set()

    clock.at(time.monotonic(), stop)

    assert stopped.wait(SOON)
