"""A child ends with whoever started it, and takes what it started with it."""

import sys
import tempfile
import time
from pathlib import Path

from producer.demo.child import Child

#: seconds, for a program to start or end on a machine that does much else
WAIT_S = 60.0

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
below = subprocess.Popen(["sleep", "60"])
print(os.getpid(), below.pid, flush=True)
time.sleep(60)
"""


def gone(pid: int) -> bool:
    try:
        # one that ended and was not waited for is gone too
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_its_exit_code_is_told() -> None:
    with tempfile.TemporaryFile() as log:
        child = Child([sys.executable, "-c", "raise SystemExit(7)"], log)
        end = time.monotonic() + WAIT_S
        while child.code() is None and time.monotonic() < end:
            time.sleep(0.01)
        assert child.code() == 7
        child.stop()


def test_one_that_does_not_stop_is_ended_with_what_it_started() -> None:
    with tempfile.NamedTemporaryFile() as log:
        child = Child([sys.executable, "-c", STUBBORN], log.file, grace_s=0.3)
        pids: list[int] = []
        end = time.monotonic() + WAIT_S
        while len(pids) < 2 and time.monotonic() < end:
            pids = [int(word) for word in Path(log.name).read_text().split()]
            time.sleep(0.02)
        began = time.monotonic()
        child.stop()
        child.stop()
        assert time.monotonic() - began < 4
        assert len(pids) == 2
        end = time.monotonic() + WAIT_S
        while not all(map(gone, pids)) and time.monotonic() < end:
            time.sleep(0.02)
        assert all(map(gone, pids))


def test_a_command_that_is_not_there_leaves_no_folder() -> None:
    folder = Path(tempfile.mkdtemp())
    with tempfile.TemporaryFile() as log:
        child = Child(["/nowhere/at-all"], log, folder=folder)
        child.stop()
        assert child.code() not in {0, None}
        log.seek(0)
        assert b"/nowhere/at-all" in log.read()
    assert not folder.exists()


def test_its_command_reads_nothing_of_ours() -> None:
    with tempfile.TemporaryFile() as log:
        child = Child(["cat"], log)
        end = time.monotonic() + WAIT_S
        while child.code() is None and time.monotonic() < end:
            time.sleep(0.01)
        assert child.code() == 0
        child.stop()
