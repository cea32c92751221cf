from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator

import pytest

from tests.workers.engine.conftest import SOON, ask
from vqa.errors import Cancelled, DeadlineExceeded, EngineError
from workers.engine.base import Completion
from workers.engine.runtime.pending import PendingPrompts
from workers.engine.runtime.timers import Timers

DONE = Completion("yes", "stop", 1, 1)


@pytest.fixture
def prompts() -> Iterator[PendingPrompts]:
    timers = Timers("test")
    timers.start()
    yield PendingPrompts(timers)
    timers.stop()


def test_who_comes_first_settles_a_prompt(prompts: PendingPrompts) -> None:
    pending = prompts.add(ask(0))

    assert pending.answer(DONE)
    assert not pending.fail(Cancelled("cancelled"))
    assert not pending.answer(DONE)
    assert pending.future.result(0) is DONE
    assert len(prompts) == 0


def test_whoever_waits_cannot_cancel_the_future_under_the_engine(prompts: PendingPrompts) -> None:
    pending = prompts.add(ask(0))

    assert not pending.future.cancel()
    assert pending.answer(DONE)


def test_a_deadline_settles_by_itself(prompts: PendingPrompts) -> None:
    pending = prompts.add(ask(0, deadline=time.monotonic() + 0.05))
    passed = prompts.add(ask(1, deadline=time.monotonic()))

    assert isinstance(passed.future.exception(0), DeadlineExceeded)
    assert isinstance(pending.future.exception(SOON), DeadlineExceeded)


def test_cancelling_settles_every_prompt_of_the_id_and_no_other(prompts: PendingPrompts) -> None:
    twice = [prompts.add(ask(0)), prompts.add(ask(0))]
    other = prompts.add(ask(1))

    prompts.cancel("job-0")
    prompts.cancel("unknown")

    assert all(isinstance(pending.future.exception(0), Cancelled) for pending in twice)
    assert not other.settled


def test_closed_prompts_fail_what_they_hold_and_what_comes_later(prompts: PendingPrompts) -> None:
    before = prompts.add(ask(0))

    prompts.close(EngineError("going"))
    prompts.close(EngineError("again"))

    assert str(before.future.exception(0)) == "going"
    assert str(prompts.add(ask(1)).future.exception(0)) == "going"
    assert len(prompts) == 0


def test_a_settled_prompt_is_let_go_without_the_garbage_collector(prompts: PendingPrompts) -> None:
    gc.disable()
    try:
        pending = prompts.add(ask(0, deadline=time.monotonic() + SOON))
        future, image = pending.future, weakref.ref(pending.prompt.turns[0].parts[0])
        pending.answer(DONE)
        del pending

        assert future.result(0) is DONE
        assert image() is None
    finally:
        gc.enable()
