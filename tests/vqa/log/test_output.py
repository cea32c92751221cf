"""Printing and logging go on, or are given up, but never stop a process: in real processes with broken outputs."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker_process import ROOT

WAIT_S = 60.0

#: prints, logs, writes as libraries in C do, and prints in a signal handler; its last word goes into a file
PROGRAM = """
import logging, os, signal, sys
from pathlib import Path
from workers.log import set_up_logging
from vqa.log.output import protect_output

protect_output()
set_up_logging("INFO")
signal.signal(signal.SIGUSR1, lambda *_: print("in a handler", flush=True))
for number in range(int(sys.argv[2])):
    print("printed", number, flush=True)
    logging.info("logged %d", number)
    if number % 1000 == 0:
        os.kill(os.getpid(), signal.SIGUSR1)
        try:
            os.write(2, b"written by a library\\n" * 100)
        except OSError:
            pass
Path(sys.argv[1]).write_text("done")
sys.stdin.readline()
print("the last line", flush=True)
"""


class Program:
    def __init__(self, said: Path, stdout: int, stderr: int, lines: int = 20_000) -> None:
        self.said = said
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(said), str(lines)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
        )

    def end(self) -> str:
        """Let it end; returns what it could do."""
        self.process.communicate(b"\n", timeout=WAIT_S)
        assert self.process.returncode == 0
        return self.said.read_text()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of 4 kB that nobody reads."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 4096)
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def test_a_full_pipe_holds_nothing_up_and_its_reader_hears_how_much_was_lost(
    pipe: tuple[int, int], tmp_path: Path
) -> None:
    program = Program(tmp_path / "said", pipe[1], pipe[1])
    os.close(pipe[1])
    while not program.said.exists():
        assert program.process.poll() is None
    # the reader goes on: it gets what was queued, how much was not, and what comes now
    assert program.process.stdin is not None
    with os.fdopen(os.dup(pipe[0]), "rb") as reader:
        read = b""
        while b"were lost: nobody reads them" not in read:
            read += reader.read1()
        program.process.stdin.write(b"\n")
        program.process.stdin.close()
        read += reader.read()
    assert program.process.wait(WAIT_S) == 0
    assert b"printed 0\n" in read
    assert read.endswith(b"the last line\n")


def test_a_full_pipe_does_not_hold_up_the_end(pipe: tuple[int, int], tmp_path: Path) -> None:
    assert Program(tmp_path / "said", pipe[1], pipe[1]).end() == "done"


def test_a_broken_pipe_holds_nothing_up(pipe: tuple[int, int], tmp_path: Path) -> None:
    os.close(pipe[0])
    assert Program(tmp_path / "said", pipe[1], pipe[1]).end() == "done"


def test_a_full_disk_is_said_where_it_can_be(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with open("/dev/full", "wb") as full, log.open("wb") as errors:
        # fewer than may wait to be written, so that none is left out
        assert Program(tmp_path / "said", full.fileno(), errors.fileno(), lines=1000).end() == "done"
    assert "writes to standard output and error were lost: No space left on device" in log.read_text()
    assert "logged 999\n" in log.read_text()


#: a library that writes to descriptor 1 must not write to Redis
CLOSED = """
import os, socket, subprocess, sys
from vqa.log.output import protect_output

protect_output()
ours, theirs = socket.socketpair()
assert min(ours.fileno(), theirs.fileno()) > 2
print("printed", flush=True)
print("printed", file=sys.stderr)
os.write(1, b"written by a library")
subprocess.run([sys.executable, "-c", "print('printed by a child')"], check=True)
ours.setblocking(False)
theirs.setblocking(False)
for end in (ours, theirs):
    try:
        sys.exit(f"received {end.recv(100)}")
    except BlockingIOError:
        pass
"""


def test_no_file_gets_the_number_of_an_output_that_was_closed_at_start() -> None:
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, CLOSED]
    assert subprocess.run(command, cwd=ROOT, timeout=WAIT_S, check=False).returncode == 0
