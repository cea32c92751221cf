"""Which model a card's next process gets, as a rollout goes on, fails, or is repeated."""

from __future__ import annotations

import socket
import time

import pytest

from vqa.rollout import Request, Target
from workers.child_process import LINK_FD
from workers.engine.settings import EngineSettings
from workers.settings import WorkerSettings
from workers.supervisor.card_model import CardModel, inherited
from workers.supervisor.link import SupervisorLink
from workers.supervisor.supervisor import Supervisor, Worker
from workers.supervisor.worker_process import SupervisedProcess

OWN, NEW = Target(model="org/own", revision="r1"), Target(model="org/new")
REQUEST = Request(id="a" * 32, target=NEW)


class Ended:
    """A process that has ended; what it had asked for."""

    pid = 1
    last_heartbeat = 0.0

    def __init__(self, request: Request | None = None) -> None:
        self.request = request

    def read(self) -> str:
        return ""

    def has_answered(self) -> bool:
        return False

    def wait(self, timeout_s: float) -> bool:
        return True


def test_a_process_learns_its_model_and_of_the_rollout_by_its_environment() -> None:
    card = CardModel(OWN)
    environment = card.environment()
    assert (environment["VQA_MODEL"], environment["VQA_REVISION"]) == ("org/own", "r1")
    card.try_out(REQUEST)
    environment = card.environment()
    assert (environment["VQA_MODEL"], environment["VQA_REVISION"]) == ("org/new", "")
    told = inherited(NEW, environment)
    assert (told.own, told.rollout, told.failed) == (OWN, REQUEST.id, "")
    # not for processes that this one starts
    assert environment.keys() == {"VQA_MODEL", "VQA_REVISION"}


def test_a_process_without_a_supervisor_has_its_own_model() -> None:
    assert inherited(NEW, {}).process_info(NEW).target == NEW


@pytest.mark.parametrize("kept", [True, False], ids=["after-a-good-one", "at-once"])
def test_a_model_that_fails_gives_way_to_the_last_that_was_ready(kept: bool) -> None:
    card = CardModel(OWN)
    if kept:
        card.try_out(REQUEST)
        card.keep()
    card.try_out(Request(id="b" * 32, target=Target(model="org/broken")))
    card.go_back("x" * 1000)
    assert card.target == (NEW if kept else OWN)
    told = inherited(card.target, card.environment())
    assert (told.rollout, told.failed) == ("b" * 32, "x" * 500)


def test_a_process_that_ends_after_it_asked_is_followed_by_the_new_model_at_once() -> None:
    supervisor = Supervisor([()], None, WorkerSettings(restarts=0), EngineSettings())
    worker = Worker((), "cpu", CardModel(OWN), process=Ended(REQUEST), failures=3)
    supervisor._on_end(worker, "was killed by SIGKILL")
    assert (worker.state, worker.failures, worker.model.target) == ("ended", 0, NEW)
    assert worker.next_start <= time.monotonic()


def test_a_request_is_read_after_a_process_was_killed_that_sent_it(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor([()], None, WorkerSettings(), EngineSettings())
    process = SupervisedProcess("node", (), "INFO")
    process.link.close()
    process.link, theirs = socket.socketpair()
    monkeypatch.setenv(LINK_FD, str(theirs.detach()))
    link = SupervisorLink()
    assert link._socket is not None
    with process.link, link._socket:
        assert link.restart(REQUEST.model_dump_json())
        process.kill()
        process.wait()
        worker = Worker((), "cpu", CardModel(OWN), process)
        supervisor._on_end(worker, process.describe_end())
    assert (worker.state, worker.model.target) == ("ended", NEW)


def test_a_new_model_that_dies_before_it_is_ready_gives_way_to_the_old_one() -> None:
    supervisor = Supervisor([()], None, WorkerSettings(restarts=0), EngineSettings())
    worker = Worker((), "cpu", CardModel(OWN), process=Ended())
    worker.model.try_out(REQUEST)
    supervisor._on_end(worker, "was killed by SIGKILL before it was ready")
    assert (worker.state, worker.model.target) == ("ended", OWN)
    # the old model is judged as ever
    supervisor._on_end(worker, "was killed by SIGKILL before it was ready")
    assert worker.state == "given up"


@pytest.mark.parametrize(("up_s", "target"), [(29, OWN), (31, NEW)], ids=["watched", "kept"])
def test_a_new_model_gives_way_to_the_old_one_if_it_ends_while_it_is_watched(up_s: float, target: Target) -> None:
    supervisor = Supervisor([()], None, WorkerSettings(), EngineSettings())
    worker = Worker((), "cpu", CardModel(OWN), process=Ended())
    worker.model.try_out(REQUEST.model_copy(update={"watch_s": 30.0}))
    worker.state, worker.ready_at = "ready", time.monotonic() - up_s
    supervisor._check_ready(worker, worker.process, late=True)
    supervisor._on_end(worker, "exited with status 70")
    # one that was kept is restarted as ever
    assert (worker.state, worker.failures, worker.model.target) == ("ended", int(target == NEW), target)
    said = "" if target == NEW else "exited with status 70, 29 s after it was ready"
    assert inherited(target, worker.model.environment()).failed == said
