"""When a worker's ends count as in a row, and what the line between it and its supervisor carries."""

from __future__ import annotations

import socket
import time

import pytest

from workers.engine.pulse import limit_s
from workers.engine.settings import EngineSettings
from workers.settings import WorkerSettings
from workers.supervisor import Card, Supervisor
from workers.supervisor_link import READY, SupervisorLink, environment

HANG_S = 100.0


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
    supervisor = Supervisor([None], None, WorkerSettings(), EngineSettings(hang_s=HANG_S))
    card = Card(None, "cpu", state="ready", failures=3)
    if steady_s is not None:
        card.ready_at = time.monotonic() - steady_s

    supervisor._ended(card, "ended with status 71")

    assert (card.state, card.failures) == ("ended", failures)


def test_a_worker_says_that_it_lives_and_neither_waits_nor_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    for name, value in environment(theirs).items():
        monkeypatch.setenv(name, value)
    link = SupervisorLink()
    theirs.detach()
    with ours:
        link.alive()
        link.say(READY)
        assert ours.recv(100).strip() == READY.encode()
        # a supervisor that is stopped reads nothing
        for _ in range(10_000):
            link.alive()
        assert ours.recv(1_000_000).strip() == b""
    # one that is gone
    link.alive()
    assert link._socket is not None
    link._socket.close()


def test_without_a_supervisor_there_is_nobody_to_tell() -> None:
    SupervisorLink().alive()
