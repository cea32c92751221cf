from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator

import pytest

from tests.workers.engine.conftest import SOON, ask
from vqa.errors import Cancelled, DeadlineExceeded, EngineError
from workers.engine.base import Completion
from workers.engine.runtime.pending import Holdings
from workers.engine.runtime.timers import Clock

DONE = Completion("yes", "stop", 1, 1)


@pytest.fixture
def holdings() -> Iterator[Holdings]:
    clock = Clock("test")
    clock.start()
    yield Holdings(clock)
    clock.stop()


def test_who_comes_first_settles_a_prompt(holdings: Holdings) -> None:
    held = holdings.hold(ask(0))

    assert held.answer(DONE)
    assert not held.fail(Cancelled("cancelled"))
    assert not held.answer(DONE)
    assert held.future.result(0) is DONE
    assert len(holdings) == 0


def test_whoever_waits_cannot_cancel_the_future_under_the_engine(holdings: Holdings) -> None:
    held = holdings.hold(ask(0))

    assert not held.future.cancel()
    assert held.answer(DONE)


def test_a_deadline_settles_by_itself(holdings: Holdings) -> None:
    held = holdings.hold(ask(0, deadline=time.monotonic() + 0.05))
    passed = holdings.hold(ask(1, deadline=time.monotonic()))

    assert isinstance(passed.future.exception(0), DeadlineExceeded)
    assert isinstance(held.future.exception(SOON), DeadlineExceeded)


def test_cancelling_settles_every_prompt_of_the_id_and_no_other(holdings: Holdings) -> None:
    twice = [holdings.hold(ask(0)), holdings.hold(ask(0))]
    other = holdings.hold(ask(1))

    holdings.cancel("job-0")
    holdings.cancel("unknown")

    assert all(isinstance(held.future.exception(0), Cancelled) for held in twice)
    assert not other.settled


def test_closed_holdings_fail_what_they_hold_and_what_comes_later(holdings: Holdings) -> None:
    before = holdings.hold(ask(0))

    holdings.close(EngineError("going"))
    holdings.close(EngineError("again"))

    assert str(before.future.exception(0)) == "going"
    assert str(holdings.hold(ask(1)).future.exception(0)) == "going"
    assert len(holdings) == 0


def test_a_settled_prompt_is_let_go_without_the_garbage_collector(holdings: Holdings) -> None:
    gc.disable()
    try:
        held = holdings.hold(ask(0, deadline=time.monotonic() + SOON))
        future, image = held.future, weakref.ref(held.prompt.turns[0].parts[0])
        held.answer(DONE)
        del held

        assert future.result(0) is DONE
        assert image() is None
    finally:
        gc.enable()
