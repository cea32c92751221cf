"""`vqa worker` as a user starts it: the supervisor, its worker processes, and what it says."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from producer import Client, Job
from tests.e2e.conftest import WAIT_S, until
from tests.supervisor_process import Program, SupervisorProcess, two_cards
from tests.worker_process import ROOT, TINY
from workers.supervisor.link import EXIT_NEVER_READY

ONE_CARD: Program = ("-m", "workers", "--cards", "cpu")

Supervise = Callable[..., SupervisorProcess]


@pytest.fixture
def supervise(redis_url: str, tmp_path: Path) -> Iterator[Supervise]:
    started: list[SupervisorProcess] = []

    def start(*options: str, program: Program = ONE_CARD, **variables: str) -> SupervisorProcess:
        log = tmp_path / f"supervisor{len(started)}.log"
        started.append(SupervisorProcess(redis_url, log, *options, program=program, **variables))
        return started[-1]

    yield start
    for supervisor in started:
        if supervisor.process.poll() is None:
            supervisor.process.terminate()
            supervisor.process.wait(WAIT_S)


def ready(supervisor: SupervisorProcess, times: int = 1) -> None:
    until(lambda: supervisor.said().count(": ready after") == times, supervisor.said)


def job(**fields: Any) -> Job:
    return Job(messages=[{"role": "user", "content": "?"}], **fields)


def ask(client: Client) -> str:
    return client.answer(client.submit(job()), timeout_s=WAIT_S).worker


def taken(client: Client) -> None:
    until(lambda: client.counts()["interactive"]["leased"])


def test_it_starts_a_worker_that_answers_refuses_another_of_its_name_and_stops_with_status_0(
    client: Client, supervise: Supervise
) -> None:
    supervisor = supervise("--engine", "echo", "--name", "desk")
    ready(supervisor)
    assert ask(client).startswith("desk@")
    second = supervise("--engine", "echo", "--name", "desk", VQA_DRAIN_S="1")
    assert second.process.wait(WAIT_S) == EXIT_NEVER_READY
    assert "given up: NotReady: a worker named desk@" in second.said()
    assert ask(client).startswith("desk@")
    supervisor.process.send_signal(signal.SIGINT)
    assert supervisor.process.wait(WAIT_S) == 0
    assert client.workers() == []


def test_a_worker_that_never_gets_ready_is_given_up_with_the_reason(supervise: Supervise) -> None:
    supervisor = supervise("--model", "/no/such/model")
    assert supervisor.process.wait(WAIT_S) == EXIT_NEVER_READY
    assert "given up: NotReady" in supervisor.said()
    assert "/no/such/model" in supervisor.said()
    assert "Traceback" not in supervisor.said()


def test_without_redis_it_says_at_once_what_it_waits_for(supervise: Supervise) -> None:
    # no time without Redis counts
    variables = {"VQA_REDIS_URL": "redis://no-host.invalid/0", "VQA_READY_TIMEOUT_S": "12"}
    supervisor = supervise("--model", str(TINY), **variables)
    waits = "waiting for Redis at no-host.invalid:6379: its host name is unknown (VQA_REDIS_URL)"
    until(lambda: waits in supervisor.said(), supervisor.said)
    # its worker, too, before it loads the model
    until(lambda: supervisor.said().count(waits) == 2, supervisor.said)
    with pytest.raises(subprocess.TimeoutExpired):
        supervisor.process.wait(14)
    supervisor.process.terminate()
    assert supervisor.process.wait(WAIT_S) == 0
    assert "Loading weights" not in supervisor.said()
    assert supervisor.said().count("WARNING") == 2


@pytest.mark.parametrize("reader", ["stands still", "is gone"])
def test_it_answers_and_drains_whatever_becomes_of_its_logs_reader(client: Client, redis_url: str, reader: str) -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    environment = os.environ | {"VQA_REDIS_URL": redis_url, "VQA_LOG_LEVEL": "DEBUG", "VQA_DRAIN_S": "5"}
    with subprocess.Popen(
        [sys.executable, *ONE_CARD, "--engine", "echo"], env=environment, cwd=ROOT, stdout=write, stderr=write
    ) as supervisor:
        os.close(write)
        if reader == "is gone":
            os.close(read)
        try:
            # every job is several lines
            ids = client.submit_many(job(timeout_s=WAIT_S) for _ in range(100))
            assert all(client.answer(id, timeout_s=WAIT_S).attempt == 1 for id in ids)
            client.submit(job(timeout_s=300, metadata={"echo_delay_s": "50"}))
            taken(client)
            supervisor.terminate()
            assert supervisor.wait(30) == 0
        finally:
            supervisor.kill()
            if reader == "stands still":
                os.close(read)
    assert client.workers() == []


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


def test_a_card_that_keeps_dying_is_given_up_while_the_other_goes_on(client: Client, supervise: Supervise) -> None:
    supervisor = supervise(program=two_cards("bad", "good"), VQA_ENGINE="echo", VQA_RESTARTS="1")
    ready(supervisor, times=2)
    supervisor.worker("bad").kill()
    ready(supervisor, times=3)
    supervisor.worker("bad").kill()
    until(lambda: "bad: given up: was killed by SIGKILL, 2 times in a row" in supervisor.said(), supervisor.said)
    assert "1 of 2 workers are left" in supervisor.said()
    assert all(ask(client).startswith("good@") for _ in range(10))
    supervisor.process.terminate()
    assert supervisor.process.wait(WAIT_S) == 0


def test_a_worker_whose_engine_fails_is_started_again_and_answers_the_job(client: Client, supervise: Supervise) -> None:
    supervisor = supervise("--engine", "echo", VQA_HANG_S="2")
    ready(supervisor)
    for times, fails, named in ((1, "hang", "status 71 (its engine hung)"), (2, "crash", "70 (its engine cra")):
        failing = job(metadata={"echo_fail": fails, "echo_fail_attempts": "1"}, retry={"attempts": 1})
        answer = client.answer(client.submit(failing), timeout_s=WAIT_S)
        assert answer.attempt == 2
        assert named in supervisor.said()
        assert supervisor.said().count("restarting in ") == times
    assert "restarting in 1 s" in supervisor.said()


def test_a_worker_that_says_nothing_is_killed_and_started_again(client: Client, supervise: Supervise) -> None:
    supervisor = supervise("--engine", "echo", VQA_HANG_S="2", VQA_LEASE_S="3")
    ready(supervisor)
    held = client.submit(job(timeout_s=300, metadata={"echo_delay_s": "5"}))
    taken(client)
    supervisor.worker().send_signal(signal.SIGSTOP)
    ready(supervisor, times=2)
    assert client.answer(held, timeout_s=WAIT_S).attempt == 2
    # a busy supervisor looks a little later
    assert re.search(r"was killed after 1\d s without a heartbeat; restarting in 1 s", supervisor.said())


def test_nobody_is_killed_for_silence_while_the_supervisor_was_stopped_itself_or_a_worker_drains(
    client: Client, supervise: Supervise
) -> None:
    supervisor = supervise("--engine", "echo", VQA_HANG_S="1")
    ready(supervisor)
    worker = supervisor.worker()
    # as a container is frozen and thawed, one process after the other; longer than a worker may be silent
    for process, number in (
        (worker, signal.SIGSTOP),
        (supervisor.process, signal.SIGSTOP),
        (supervisor.process, signal.SIGCONT),
        (worker, signal.SIGCONT),
    ):
        process.send_signal(number)
        time.sleep(12 if process is supervisor.process and number == signal.SIGSTOP else 1)
    assert ask(client)
    time.sleep(2)
    assert supervisor.worker() == worker
    assert "no heartbeat" not in supervisor.said()
    held = client.submit(job(timeout_s=300, metadata={"echo_delay_s": "14"}))
    taken(client)
    worker.send_signal(signal.SIGTERM)
    assert client.answer(held, timeout_s=WAIT_S).attempt == 1
    until(lambda: "exited with status 0" in supervisor.said(), supervisor.said)
    assert "no heartbeat" not in supervisor.said()


def test_a_second_signal_gives_back_at_once(client: Client, supervise: Supervise) -> None:
    supervisor = supervise("--engine", "echo")
    ready(supervisor)
    held = client.submit(job(timeout_s=300, metadata={"echo_delay_s": "50"}))
    taken(client)
    supervisor.process.terminate()
    until(lambda: "draining: 1 running jobs" in supervisor.said(), supervisor.said)
    started = time.monotonic()
    supervisor.process.terminate()
    assert supervisor.process.wait(WAIT_S) == 0
    assert time.monotonic() - started < 10
    assert "shutting down: second signal to stop; 1 jobs return to the queue" in supervisor.said()
    assert "workers were killed" not in supervisor.said()
    state = client.states([held])[held]
    assert state.state == "queued"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--slots", "many"], "VQA_SLOTS"),
        (["--slots", "0"], "VQA_SLOTS"),
        (["--cards", "9"], "VQA_CARDS"),
        (["--cards", "first"], "VQA_CARDS"),
        (["--cards", "cpu+0"], "VQA_CARDS"),
        (["--quant", "int5"], "VQA_QUANT"),
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


def test_a_wrong_value_of_the_echo_engine_stops_it_before_a_worker_starts(supervise: Supervise) -> None:
    supervisor = supervise("--engine", "echo", VQA_ECHO_DELAY_S="soon")
    assert supervisor.process.wait(WAIT_S) == 2
    assert supervisor.said().startswith("vqa: SettingsError: VQA_ECHO_DELAY_S")


def test_a_worker_that_dies_is_started_again_and_drains_when_its_supervisor_is_killed(
    client: Client, supervise: Supervise
) -> None:
    supervisor = supervise("--engine", "echo")
    ready(supervisor)
    supervisor.worker().kill()
    ready(supervisor, times=2)
    assert ask(client).startswith("cpu@")
    assert "restarting in 1 s" in supervisor.said()
    worker = supervisor.worker()
    supervisor.process.kill()
    supervisor.process.wait()
    worker.wait(WAIT_S)
    assert client.workers() == []
