"""The watchdog: what it reports, when and how often; a process that was stopped does not count as hanging."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.worker_process import ROOT
from workers.engine.base import Stall
from workers.engine.runtime.heartbeat import Heartbeat
from workers.process.watchdog import Watchdog

SOON = 60.0
EVERY_S = 0.02


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.005)


class Watched:
    """A watchdog over an engine's heartbeat, and what it reported."""

    def __init__(self, hang_s: float) -> None:
        self.stalls: list[Stall] = []
        self.rounds = 0
        self.heartbeat = Heartbeat(hang_s)
        self.watchdog = Watchdog(self.heartbeat.stall, self.on_stall, self.on_check, EVERY_S)

    def on_stall(self, stall: Stall) -> None:
        # renewals must stop before anything is given back
        assert self.watchdog.stalled
        self.stalls.append(stall)

    def on_check(self) -> None:
        self.rounds += 1


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched(hang_s=0.3)
    watched.watchdog.start()
    yield watched
    watched.watchdog.stop()
    rounds = watched.rounds
    time.sleep(3 * EVERY_S)
    assert watched.rounds == rounds


def test_a_stall_is_told_once_and_the_rounds_go_on(watched: Watched) -> None:
    watched.heartbeat.beat("decode", ("a", "b"))
    wait_until(lambda: bool(watched.stalls))
    rounds = watched.rounds
    wait_until(lambda: watched.rounds > rounds + 10)

    (stall,) = watched.stalls
    assert (stall.phase, stall.ids, stall.limit_s) == ("decode", ("a", "b"), 0.3)
    assert watched.watchdog.stalled


def test_a_thread_that_beats_or_is_parked_is_left_alone(watched: Watched) -> None:
    until = time.monotonic() + 1
    while time.monotonic() < until:
        watched.heartbeat.beat("decode", ("a",))
        time.sleep(0.01)
    watched.heartbeat.idle()
    rounds = watched.rounds
    wait_until(lambda: watched.rounds > rounds + 30)

    assert watched.stalls == []
    assert not watched.watchdog.stalled


def test_what_it_tells_may_stop_it() -> None:
    heartbeat = Heartbeat(0.1)
    heartbeat.beat("decode", ())
    ended = threading.Event()

    def on_stall(stall: Stall) -> None:
        watchdog.stop()
        ended.set()

    watchdog = Watchdog(heartbeat.stall, on_stall, lambda: None, EVERY_S)
    watchdog.start()

    assert ended.wait(SOON)


#: steps of half a second, each made of many short sleeps, so that a process that goes on after a pause has most of a
#: step still to go; a step may take two seconds
PROGRAM = """
import sys, threading, time
from workers.engine.runtime.heartbeat import Heartbeat
from workers.process.watchdog import Watchdog

heartbeat, hang = Heartbeat(2.0), threading.Event()

def compute():
    while not hang.is_set():
        heartbeat.beat("decode", ("a",))
        for _ in range(50):
            time.sleep(0.01)

Watchdog(heartbeat.stall, lambda stall: print("stalled", flush=True), lambda: None, 0.05).start()
threading.Thread(target=compute, daemon=True).start()
print("runs", flush=True)
for line in sys.stdin:
    hang.set() if line == "hang\\n" else print("lives", flush=True)
"""


def test_a_process_that_was_stopped_as_a_whole_does_not_hang_and_one_that_hangs_afterwards_does() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "runs\n"
        for _ in range(2):
            os.kill(process.pid, signal.SIGSTOP)
            # longer than a step may take
            time.sleep(3.5)
            os.kill(process.pid, signal.SIGCONT)
            # as long as a step takes: had it been taken for a hang, it would have been reported by then
            time.sleep(0.6)
        print("?", file=process.stdin, flush=True)
        assert process.stdout.readline() == "lives\n"
        print("hang", file=process.stdin, flush=True)
        assert process.stdout.readline() == "stalled\n"
        process.stdin.close()
        assert process.wait(SOON) == 0
