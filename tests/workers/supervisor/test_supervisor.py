"""When a worker's ends count as in a row, what it sees of the machine, what the link to its supervisor carries."""

from __future__ import annotations

import socket
import time

import psutil
import pytest

from vqa.rollout import Target
from workers.cards import Cards
from workers.child_process import LINK_FD
from workers.engine.runtime.heartbeat import limit_s
from workers.engine.settings import EngineSettings
from workers.settings import WorkerSettings
from workers.supervisor.card_model import CardModel
from workers.supervisor.link import READY, FirstAnswer, SupervisorLink
from workers.supervisor.supervisor import Supervisor, Worker
from workers.supervisor.worker_process import SupervisedProcess

HANG_S = 100.0
MODEL = CardModel(Target(model="org/old"))


@pytest.mark.parametrize(
    ("steady_s", "failures"),
    [
        # never ready
        (None, 4),
        (1, 4),
        # it was well for a while and then hung, in prefill, each time
        (250 + limit_s("prefill", HANG_S), 4),
        (350 + limit_s("prefill", HANG_S), 1),
    ],
)
def test_ends_are_in_a_row_unless_the_worker_was_well_in_between(steady_s: float | None, failures: int) -> None:
    supervisor = Supervisor([()], None, WorkerSettings(), EngineSettings(hang_s=HANG_S))
    worker = Worker((), "cpu", MODEL, state="ready", failures=3)
    if steady_s is not None:
        worker.ready_at = time.monotonic() - steady_s

    supervisor._on_end(worker, "exited with status 71")

    assert (worker.state, worker.failures) == ("ended", failures)


class Ended:
    """A process that has ended; whether it had answered. No rollout has asked for another model."""

    request = None

    def __init__(self, answered: bool) -> None:
        self.has_answered = lambda: answered
        self.read = str

    def wait(self, timeout_s: float) -> bool:
        return True


@pytest.mark.parametrize(("answered", "state"), [(True, "ended"), (False, "given up")])
def test_a_card_whose_worker_answered_jobs_is_not_given_up_for_later_deaths(answered: bool, state: str) -> None:
    supervisor = Supervisor([()], None, WorkerSettings(restarts=3), EngineSettings())
    worker = Worker((), "cpu", MODEL)
    for number in range(5):
        worker.state, worker.ready_at = "ready", time.monotonic()
        worker.process = Ended(answered and number == 0)
        supervisor._on_end(worker, "exited with status 1")
        if worker.state == "given up":
            break
    assert worker.state == state
    worker.process = Ended(False)
    supervisor._on_end(worker, "exited with status 1 before it was ready")
    assert worker.state == "given up"


def test_a_card_is_free_once_no_process_has_the_workers_end_of_the_link() -> None:
    child = SupervisedProcess("node", (), "INFO")
    child.end()
    child.link, theirs = socket.socketpair()
    with child.link, theirs, theirs.dup() as engines:
        theirs.send(b"\n\n")
        theirs.close()
        assert not child.has_freed_card()
        engines.close()
        assert child.has_freed_card()


def test_a_worker_is_started_once_the_card_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lingering(Ended):
        has_freed_card = staticmethod(lambda: freed)

    freed, started = False, list[Worker]()
    supervisor = Supervisor([()], None, WorkerSettings(), EngineSettings())
    monkeypatch.setattr(supervisor, "_start", started.append)
    worker = Worker((), "cpu", MODEL, process=Lingering(True), next_start=time.monotonic())
    supervisor._check(worker, late=False)
    assert not started
    freed = True
    supervisor._check(worker, late=False)
    assert started == [worker]
    freed = False
    # it hangs in the driver
    worker.next_start -= 10
    supervisor._check(worker, late=False)
    assert started == [worker, worker]


def test_an_answer_is_reported_at_once_and_read_after_the_workers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    child = SupervisedProcess("node", (), "INFO")
    ours, theirs = socket.socketpair()
    monkeypatch.setenv(LINK_FD, str(theirs.fileno()))
    link = SupervisorLink()
    theirs.detach()
    child.link.close()
    child.link = ours
    FirstAnswer(link).set()
    assert link._socket is not None
    link._socket.close()
    child.kill()
    child.wait(30)
    assert child.has_answered()
    child.end()


@pytest.mark.parametrize(
    ("cards", "name", "names"),
    [
        ([(0,), (1,)], None, ["card0", "card1"]),
        ([(0, 1), (2,)], None, ["card0+1", "card2"]),
        ([(0, 1), (2,)], "night", ["night-card0+1", "night-card2"]),
        ([(0, 1)], "night", ["night"]),
        ([()], None, ["cpu"]),
    ],
)
def test_a_worker_is_named_after_its_cards(cards: list[Cards], name: str | None, names: list[str]) -> None:
    supervisor = Supervisor(cards, name, WorkerSettings(), EngineSettings())

    assert [worker.name for worker in supervisor._workers] == names


@pytest.mark.parametrize(
    ("cards", "seen"),
    [
        ((0, 1), {"CUDA_VISIBLE_DEVICES": "0,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "VQA_CARDS": "0+1"}),
        ((3,), {"CUDA_VISIBLE_DEVICES": "3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "VQA_CARDS": "3"}),
        ((), {"CUDA_VISIBLE_DEVICES": "", "VQA_CARDS": "cpu"}),
    ],
)
def test_a_workers_process_sees_its_cards_alone(
    cards: Cards, seen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VQA_CARDS", "0+1,3")

    child = SupervisedProcess("node", cards, "INFO")
    try:
        # while a process begins, the kernel may show it without any
        until = time.monotonic() + 30
        while not (environment := psutil.Process(child.pid).environ()):
            assert time.monotonic() < until
    finally:
        child.end()

    names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "VQA_CARDS")
    assert {name: environment[name] for name in names if name in environment} == seen


def test_a_worker_says_that_it_lives_and_neither_waits_nor_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setenv(LINK_FD, str(theirs.fileno()))
    link = SupervisorLink()
    theirs.detach()
    with ours:
        link.heartbeat()
        link.report(READY)
        assert ours.recv(100).strip() == READY.encode()
        # a supervisor that is stopped reads nothing
        for _ in range(10_000):
            link.heartbeat()
        assert ours.recv(1_000_000).strip() == b""
    # one that is gone
    link.heartbeat()
    assert link._socket is not None
    link._socket.close()


def test_without_a_supervisor_there_is_nobody_to_tell() -> None:
    SupervisorLink().heartbeat()
