"""`vqa rollout` on a real supervisor with two workers: jobs go on being answered, whatever becomes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from celery import Celery
from typer.testing import CliRunner

from producer import Client, Job
from producer.cli.main import app as command_line
from producer.rollout import control
from producer.rollout.control import Control
from producer.rollout.rollout import LOCK
from tests.supervisor_process import SupervisorProcess, two_cards
from tests.worker_process import ROOT, WorkerProcess
from vqa.celery import make_app
from vqa.redis.connection import connect
from vqa.rollout import ProcessInfo, Request, Target
from vqa.settings import QueueSettings

#: a test starts up to five processes one after another, each of which takes 40 s on a machine that does much else
pytestmark = pytest.mark.timeout(600)

#: seconds for two of them
LONG_S = 150.0

#: `vqa`, which waits longer for workers of a busy machine
PROGRAM = f"""
from producer.cli.main import main
from producer.rollout import control, rollout

control._REPLY_S, rollout._LOCK_S = {LONG_S}, {4 * LONG_S}
main()
"""

VARIABLES = {
    "VQA_ENGINE": "echo",
    "VQA_SLOTS": "8",
    "VQA_MODEL": "org/old",
    "VQA_ROLLOUT_MODELS": "org/slow@v2, org/broken, org/crashing",
}


def until(condition: Callable[[], object], what: Callable[[], str] = str) -> None:
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


@dataclass
class Fleet:
    """Workers `card0` and `card1` under one supervisor."""

    settings: QueueSettings
    supervisor: SupervisorProcess
    client: Client
    app: Celery
    folder: Path
    commands: list[subprocess.Popen[str]] = field(default_factory=list)

    def processes(self) -> dict[str, ProcessInfo]:
        found = {worker.name: ProcessInfo.from_about(worker.about) for worker in self.client.workers()}
        return {name: process for name, process in found.items() if process is not None}

    def runs(self, name: str, model: str) -> bool:
        process = self.processes().get(name)
        return process is not None and str(process.target) == model

    def rollout(self, *options: str) -> subprocess.Popen[str]:
        command = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "rollout", *options],
            env=os.environ | {"VQA_REDIS_URL": self.settings.redis_url},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.commands.append(command)
        return command

    def refused(self, *options: str) -> str:
        """Return the reason for which a rollout does not begin."""
        environment = {"VQA_REDIS_URL": self.settings.redis_url, "COLUMNS": "400"}
        ended = CliRunner().invoke(command_line, ["rollout", *options], env=environment)
        assert ended.exit_code
        return ended.output + str(ended.exception)

    def job(self) -> str:
        messages = [{"role": "user", "content": "?"}]
        return self.client.submit(Job(messages=messages, metadata={"echo_delay_s": "0.5"}, timeout_s=4 * LONG_S))


@contextmanager
def third_worker(fleet: Fleet, like: Target) -> Iterator[str]:
    """Let a worker with this model, which no supervisor has, answer beside the cards; yield its name."""
    files = {"VQA_ECHO_JOURNAL": str(fleet.folder / "journal")}
    model = {"VQA_MODEL": like.model, "VQA_REVISION": like.revision or ""}
    before = fleet.processes().keys()
    worker = WorkerProcess(fleet.settings.redis_url, "third", fleet.folder / "third", **model, **files)
    try:
        until(lambda: fleet.processes().keys() - before, worker.log.read_text)
        [name] = fleet.processes().keys() - before
        yield name
    finally:
        worker.stop(LONG_S)


@pytest.fixture(scope="module")
def fleet(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    settings = QueueSettings(redis_url=redis_server)
    with connect(settings) as redis:
        redis.flushall()
    files = {"LOADS": str(folder / "loads"), "VQA_ECHO_JOURNAL": str(folder / "journal")}
    program = two_cards("card0", "card1", app="tests.failing_app")
    supervisor = SupervisorProcess(redis_server, folder / "log", program=program, **VARIABLES, **files)
    with Client(settings) as client, make_app(settings) as app:
        fleet = Fleet(settings, supervisor, client, app, folder)
        try:
            until(lambda: len(fleet.processes()) == 2, supervisor.said)
            yield fleet
        finally:
            for command in fleet.commands:
                command.kill()
                with command:
                    pass
            supervisor.process.terminate()
            supervisor.process.wait(LONG_S)


@contextmanager
def jobs_flow(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All the time some worker must take commands; all jobs that are submitted meanwhile are answered, each once."""
    monkeypatch.setattr(control, "_REPLY_S", LONG_S)
    names, commands = sorted(fleet.processes()), Control(fleet.app, Request(id="0" * 32, target=Target(model="any")))
    over, ids, silent = threading.Event(), list[str](), list[float]()

    def submit() -> None:
        while not over.wait(0.15):
            ids.append(fleet.job())

    def witness() -> None:
        while not over.wait(0.25):
            # a worker that drains, or starts, says nothing
            if not commands.answers(names):
                silent.append(time.monotonic())

    threads = [threading.Thread(target=each) for each in (submit, witness)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not silent
    assert {fleet.client.answer(id, timeout_s=LONG_S).attempt for id in ids} == {1}
    journal = [json.loads(line) for line in (fleet.folder / "journal").read_text().splitlines()]
    assert sorted(each["id"] for each in journal if each["event"] == "start" and each["id"] in set(ids)) == sorted(ids)


def said(command: subprocess.Popen[str], words: str) -> str:
    """Read what the command prints until a line has these words; return that line."""
    assert command.stdout is not None
    for line in command.stdout:
        if words in line:
            return line
    raise AssertionError(command.communicate()[1])


def finish(command: subprocess.Popen[str], status: int) -> tuple[str, str]:
    out, err = command.communicate(timeout=LONG_S)
    assert command.returncode == status, (out, err)
    return out, err


def test_jobs_flow_while_it_is_interrupted_and_goes_on(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = sorted(fleet.processes())
    new = ("--model", "org/slow", "--revision", "v2")
    with jobs_flow(fleet, monkeypatch):
        command = fleet.rollout(*new)
        assert first in said(command, "starting with org/slow@v2")
        command.send_signal(signal.SIGINT)
        _, err = finish(command, 130)
        assert f"{first}: restarting with org/slow@v2; if that fails, its supervisor goes back to org/old" in err
        assert f"{second}: org/old, not restarted" in err

        (fleet.folder / "loads").touch()
        until(lambda: fleet.runs(first, "org/slow@v2"), fleet.supervisor.said)
        before = fleet.processes()
        out, _ = finish(fleet.rollout(*new, "--watch", "2"), 0)
    assert f"{second} runs org/slow@v2" in out
    assert "would start org/old: set VQA_MODEL=org/slow and VQA_REVISION=v2" in out
    after = fleet.processes()
    assert after[first] == before[first]
    assert str(after[second].target) == "org/slow@v2"


def test_a_model_that_cannot_start_leaves_every_card_as_it_was(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fleet.processes()
    first, second = sorted(before)
    old = before[first].target
    with jobs_flow(fleet, monkeypatch):
        command = fleet.rollout("--model", "org/broken", "--worker", first)
        said(command, f"{first}: finishing its jobs")
        assert "another rollout is under way; if its command was killed, try again in 60 s" in fleet.refused(
            "--model", "org/old", "--worker", second
        )
        with connect(fleet.settings) as redis:
            # it ends by itself
            assert redis.pttl(LOCK) > 0
        _, err = finish(command, 1)
    assert f"vqa: NotReady: {first} could not run org/broken and runs {old} again: NotReady: the card has 3.0" in err
    assert "GiB free, and the weights need 58.0 GiB" in err
    assert f"{first}: {old} again" in err
    assert "once the reason is gone, the same command goes on" in err
    after = fleet.processes()
    assert after[first].target == old
    assert after[second] == before[second]


def test_a_model_whose_first_job_crashes_its_engine_gives_way_to_the_one_before(fleet: Fleet) -> None:
    before = fleet.processes()
    first, second = sorted(before)
    old = before[first].target
    command = fleet.rollout("--model", "org/crashing", "--worker", first)
    said(command, f"{first}: starting with org/crashing")
    ids = list[str]()
    while command.poll() is None:
        ids.append(fleet.job())
        time.sleep(0.15)
    _, err = finish(command, 1)
    assert f"vqa: NotReady: {first} could not run org/crashing and runs {old} again: exited with status 70" in err
    assert "its engine crashed" in err
    assert "s after it was ready" in err
    assert f"{first}: {old} again" in err
    after = fleet.processes()
    assert (after[first].target, after[second]) == (old, before[second])
    # at most once for naught
    assert {fleet.client.answer(id, timeout_s=LONG_S).attempt for id in ids} == {1, 2}


def test_two_cards_restart_at_the_same_time_while_a_third_worker_answers(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fleet.processes()
    cards = sorted(before)
    chosen = [word for name in cards for word in ("--worker", name)]
    (fleet.folder / "loads").unlink(missing_ok=True)
    with third_worker(fleet, before[cards[0]].target) as third, jobs_flow(fleet, monkeypatch):
        new = ("--model", "org/slow", "--revision", "v2", "--watch", "1")
        command = fleet.rollout(*new, *chosen, "--at-once", "2")
        for _ in cards:
            said(command, "starting with org/slow@v2")
        assert list(fleet.processes()) == [third]
        (fleet.folder / "loads").touch()
        out, _ = finish(command, 0)
    assert "2 workers run org/slow@v2" in out
    after = fleet.processes()
    assert sorted(after) == cards
    assert {str(process.target) for process in after.values()} == {"org/slow@v2"}
    assert all(after[name].started > before[name].started for name in cards)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--model", "org/new"], "rollout is refused: VQA_ROLLOUT_MODELS does not list org/new"),
        (["--model", "org/slow", "--from", "org/none"], "no worker to restart runs org/none"),
        (["--model", "org/slow", "--at-once", "2", "--revision", "v3"], "there are 2 workers, and jobs would wait"),
    ],
    ids=["model", "from", "at-once"],
)
def test_what_it_cannot_do_is_refused_before_any_card_restarts(
    fleet: Fleet, given: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_REPLY_S", LONG_S)
    until(lambda: len(fleet.processes()) == 2, fleet.supervisor.said)
    before = fleet.processes()
    assert named in fleet.refused(*given)
    assert fleet.processes() == before
