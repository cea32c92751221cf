"""What becomes of prompts when the engine's process dies, hangs or speaks nonsense, and of it when its worker dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.worker_process import ROOT
from tests.workers.engine.conftest import SOON, Crashes
from tests.workers.engine.process.conftest import StartFake, until
from tests.workers.engine.process.fake_engine import FACTORY
from tests.workers.engine.process.test_engine import says
from vqa.errors import EngineError
from workers.child_process import ChildProcess
from workers.engine.process.frames import BrokenFrame, FrameReader, frame
from workers.engine.process.messages import TO_CHILD, TO_PARENT, Ready, Start


@pytest.mark.parametrize(
    ("asks", "how"),
    [
        ("die", "the engine's process was killed by SIGKILL"),
        ("exit", "the engine's process exited with status 3"),
        ("no text", "the engine's process exited with status 0"),
        ("crash", "the engine crashed (RuntimeError)"),
    ],
)
def test_a_process_that_ends_is_a_crash_of_the_engine(
    start_fake: StartFake, crashes: Crashes, asks: str, how: str
) -> None:
    engine = start_fake()
    waits = engine.submit(says("wait", id="waits"))
    culprit = engine.submit(says(asks, id="culprit"))
    for pending in (waits, culprit):
        error = pending.exception(SOON)
        assert (type(error), str(error)) == (EngineError, how)
    [(reported, ids)] = crashes
    assert (type(reported), str(reported)) == (EngineError, how)
    # an engine that says which prompts it computed is believed; otherwise each may have been in a slot
    assert set(ids) == ({"culprit"} if asks == "crash" else {"waits", "culprit"})
    with pytest.raises(EngineError, match=how.partition(" (")[0]):
        engine.submit(says("?")).result(0)
    assert engine.stall() is None


def test_a_prompt_that_was_answered_is_not_blamed(start_fake: StartFake, crashes: Crashes) -> None:
    engine = start_fake()
    engine.submit(says("?", id="answered")).result(SOON)
    engine.submit(says("die", id="culprit")).exception(SOON)
    assert crashes[0][1] == ("culprit",)


@pytest.mark.parametrize("how", ["stopped", "held"])
def test_a_process_that_stands_still_is_a_stall(start_fake: StartFake, crashes: Crashes, how: str) -> None:
    engine = start_fake(hang_s=0.5)
    assert engine.pid is not None
    if how == "stopped":
        engine.submit(says("wait", id="waits"))
        os.kill(engine.pid, signal.SIGSTOP)
    else:
        engine.submit(says("hold the interpreter", id="waits"))
    until(engine.stall)
    stall = engine.stall()
    assert stall is not None
    assert (stall.phase, stall.ids, stall.limit_s) == ("decode", ("waits",), 0.5)
    assert stall.silent_s > 0.5
    if how == "stopped":
        os.kill(engine.pid, signal.SIGCONT)
        until(lambda: engine.stall() is None)
    began = time.monotonic()
    engine.stop()
    assert time.monotonic() - began < 10
    assert not crashes


def test_a_stall_of_the_engine_is_told(start_fake: StartFake) -> None:
    engine = start_fake()
    engine.submit(says("stall", id="culprit"))
    until(engine.stall)
    stall = engine.stall()
    assert stall is not None
    assert (stall.phase, stall.silent_s, stall.ids, stall.limit_s) == ("prefill", 7.5, ("culprit",), 5.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_signals_to_stop_are_the_workers(start_fake: StartFake, number: signal.Signals) -> None:
    engine = start_fake()
    assert engine.pid is not None
    os.kill(engine.pid, number)
    assert engine.submit(says("?")).result(SOON).finish_reason == "stop"


def test_a_descriptor_is_kept_open_until_the_process_ends(make_fake: StartFake) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        engine = make_fake(pass_fds=[theirs.fileno()])
        engine.start(lambda error, ids: None)
        theirs.close()
        with pytest.raises(BlockingIOError):
            ours.recv(1, socket.MSG_DONTWAIT)
        engine.stop()
        assert ours.recv(1) == b""


_WORKER = """
import sys, threading, time
from workers.engine.base import Prompt, SamplingParams, Turn
from workers.engine.process.engine import EngineProcess
from workers.engine.settings import EngineSettings
engine = EngineProcess(EngineSettings(), 4, sys.argv[1])
if sys.argv[2] == "load":
    threading.Thread(target=engine.start, args=(None,), daemon=True).start()
    while engine.pid is None:
        time.sleep(0.01)
else:
    engine.start(lambda error, ids: None)
    engine.submit(Prompt("id", (Turn("user", (sys.argv[2],)),), SamplingParams(1)))
print(engine.pid, flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("doing", ["?", "hold the interpreter", "load"], ids=["idle", "hung", "loading"])
def test_the_process_ends_with_its_worker(doing: str) -> None:
    factory = f"{FACTORY}:{'loading' if doing == 'load' else 'make_engine'}"
    command = [sys.executable, "-c", _WORKER, factory, doing]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as worker:
        try:
            assert worker.stdout is not None
            engine = psutil.Process(int(worker.stdout.readline()))
        finally:
            worker.kill()
    psutil.wait_procs([engine], SOON)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_the_process_loads_nothing_if_its_worker_has_ended(tmp_path: Path) -> None:
    with _child(tmp_path) as child:
        child.link.sendall(b"".join(frame(TO_CHILD.encode(Start(f"{FACTORY}:stuck", {}, 4, "INFO")))))
        child.link.shutdown(socket.SHUT_RDWR)
        assert child.wait(SOON)
    assert child.status == 0


@pytest.mark.parametrize(
    ("sent", "says_so"),
    [
        (b"\xff" * 8, "a frame of 4294967295 and 4294967295 bytes"),
        (b"".join(frame(b"secret")), "message: json_invalid"),
        (b"".join(frame(b'{"kind":"cancel","number":1}')), "cancel in place of start"),
    ],
    ids=["sizes", "json", "no-start"],
)
def test_a_broken_frame_ends_the_process_with_one_line(tmp_path: Path, sent: bytes, says_so: str) -> None:
    with _child(tmp_path) as child:
        child.link.sendall(sent)
        assert child.wait(SOON)
    assert child.status == 1
    [line] = (tmp_path / "log").read_text().splitlines()
    assert "the engine's process ends, its worker sent a broken frame: " + says_so in line
    assert "secret" not in line


def test_a_broken_frame_after_the_start_ends_it_too(tmp_path: Path) -> None:
    with _child(tmp_path) as child:
        child.link.sendall(b"".join(frame(TO_CHILD.encode(Start(f"{FACTORY}:make_engine", {}, 4, "INFO")))))
        received = FrameReader(child.link).read()
        assert received is not None
        assert isinstance(TO_PARENT.decode(received[0]), Ready)
        child.link.sendall(b"".join(frame(b'{"kind":"release","images":["secret"]}')))
        assert child.wait(SOON)
    assert "a broken frame: release.images.0: int_parsing" in (tmp_path / "log").read_text()


def test_a_broken_frame_of_the_process_is_a_crash(
    start_fake: StartFake, crashes: Crashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, data: bytes) -> None:
        raise BrokenFrame("no frame")

    engine = start_fake()
    pending = engine.submit(says("wait", id="waits"))
    monkeypatch.setattr(type(TO_PARENT), "decode", refuse)
    assert str(pending.exception(SOON)) == "the engine's process sent a broken frame (no frame)"
    [(_, ids)] = crashes
    assert ids == ("waits",)


@contextmanager
def _child(folder: Path) -> Iterator[ChildProcess]:
    """A child without an `EngineProcess`; its output is in the file `log`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("wb") as output:
        child = ChildProcess(["workers.engine.process.child"], environment, output=output)
    try:
        yield child
    finally:
        child.end()
