"""`vqa worker` as a user starts it: the supervisor, its worker processes, and what it says."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from producer import Client, Job
from tests.worker_process import ROOT

WAIT_S = 60.0


class SupervisorProcess:
    def __init__(self, redis_url: str, log: Path, *options: str, **variables: str) -> None:
        self.log = log
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VQA_")}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers", "--cards", "cpu", *options],
                env=environment | {"VQA_REDIS_URL": redis_url} | variables,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def said(self) -> str:
        return self.log.read_text()

    def worker(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child


Supervise = Callable[..., SupervisorProcess]


@pytest.fixture
def supervise(redis_url: str, tmp_path: Path) -> Iterator[Supervise]:
    started: list[SupervisorProcess] = []

    def start(*options: str, **variables: str) -> SupervisorProcess:
        log = tmp_path / f"supervisor{len(started)}.log"
        started.append(SupervisorProcess(redis_url, log, *options, **variables))
        return started[-1]

    yield start
    for supervisor in started:
        if supervisor.process.poll() is None:
            supervisor.process.terminate()
            supervisor.process.wait(WAIT_S)


def until(condition: Callable[[], object], what: Callable[[], str] = str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


def ready(supervisor: SupervisorProcess, times: int = 1) -> None:
    until(lambda: supervisor.said().count(": ready after") == times, supervisor.said)


def ask(client: Client) -> str:
    id = client.submit(Job(messages=[{"role": "user", "content": "?"}]))
    return client.answer(id, timeout_s=WAIT_S).worker


def test_it_starts_a_worker_that_answers_and_stops_it_with_status_0(client: Client, supervise: Supervise) -> None:
    supervisor = supervise("--engine", "echo", "--name", "desk")
    ready(supervisor)
    assert ask(client).startswith("desk@")
    supervisor.process.send_signal(signal.SIGINT)
    assert supervisor.process.wait(WAIT_S) == 0
    assert client.workers() == []


def test_a_worker_that_dies_is_started_again(client: Client, supervise: Supervise) -> None:
    supervisor = supervise("--engine", "echo")
    ready(supervisor)
    supervisor.worker().kill()
    ready(supervisor, times=2)
    assert ask(client).startswith("cpu@")
    assert "starting again in 1 s" in supervisor.said()


def test_a_worker_that_never_gets_ready_is_given_up_with_the_reason(supervise: Supervise) -> None:
    supervisor = supervise("--model", "/no/such/model")
    assert supervisor.process.wait(WAIT_S) == 1
    assert "given up: NotReady" in supervisor.said()
    assert "/no/such/model" in supervisor.said()
    assert "Traceback" not in supervisor.said()


def test_a_worker_that_takes_too_long_is_given_up(supervise: Supervise) -> None:
    supervisor = supervise("--engine", "echo", VQA_ECHO_LOAD_S="60", VQA_READY_TIMEOUT_S="2")
    assert supervisor.process.wait(WAIT_S) == 1
    assert "not ready after 2 s (VQA_READY_TIMEOUT_S)" in supervisor.said()


def test_a_worker_that_keeps_dying_is_given_up_after_so_many_restarts(supervise: Supervise) -> None:
    supervisor = supervise("--engine", "echo", VQA_RESTARTS="1")
    for times in (1, 2):
        ready(supervisor, times)
        supervisor.worker().kill()
    assert supervisor.process.wait(WAIT_S) == 1
    assert "2 times in a row (VQA_RESTARTS)" in supervisor.said()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--slots", "many"], "VQA_SLOTS"),
        (["--slots", "0"], "VQA_SLOTS"),
        (["--cards", "9"], "VQA_CARDS"),
        (["--cards", "first"], "VQA_CARDS"),
        (["--dtype", "int3"], "VQA_DTYPE"),
    ],
)
def test_a_wrong_option_stops_it_at_once_and_is_named(supervise: Supervise, options: list[str], named: str) -> None:
    supervisor = supervise(*options)
    assert supervisor.process.wait(WAIT_S) == 2
    assert supervisor.said().startswith(f"vqa: SettingsError: {named}")


def test_a_misspelt_variable_stops_it_at_once_and_is_named(supervise: Supervise) -> None:
    supervisor = supervise(VQA_SLOT="16")
    assert supervisor.process.wait(WAIT_S) == 2
    assert "VQA_SLOT is not a setting of vqa; did you mean VQA_SLOTS?" in supervisor.said()


def test_workers_drain_when_their_supervisor_is_killed(client: Client, supervise: Supervise) -> None:
    supervisor = supervise("--engine", "echo")
    ready(supervisor)
    worker = supervisor.worker()
    supervisor.process.kill()
    supervisor.process.wait()
    worker.wait(WAIT_S)
    assert client.workers() == []
