"""A prompt in an engine's hands, and the one way in which its future is settled: once, by whoever comes first."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from functools import partial

from vqa.errors import Cancelled, DeadlineExceeded, EngineError, VQAError
from workers.engine.base import Completion, Prompt
from workers.engine.runtime.timers import Timer, Timers


def _running() -> Future[Completion]:
    future: Future[Completion] = Future()
    # a running future cannot be cancelled by who waits on it: ending a prompt is the engine's business
    future.set_running_or_notify_cancel()
    return future


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A prompt and the future that was promised for it."""

    prompt: Prompt
    future: Future[Completion] = field(default_factory=_running)
    #: on `time.monotonic()`'s clock
    since: float = field(default_factory=time.monotonic)

    @property
    def settled(self) -> bool:
        """Whether it has ended, however it did: nothing more need be computed for it."""
        return self.future.done()

    def answer(self, completion: Completion) -> bool:
        """Settle with a completion; False where it had ended before."""
        try:
            self.future.set_result(completion)
        except InvalidStateError:
            return False
        return True

    def fail(self, error: VQAError) -> bool:
        """Settle with an error; False where it had ended before."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            return False
        return True

    def expire(self) -> None:
        """Settle as past its deadline."""
        self.fail(DeadlineExceeded("the deadline passed before the answer was ready"))


class PendingPrompts:
    """Every prompt that an engine has not settled yet, each with an alarm at its deadline.

    A deadline or a cancellation settles the future at once, from the clock's or the caller's thread; whoever computes
    for the prompt sees `settled` at its next step.
    """

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._held: dict[str, dict[int, Pending]] = {}
        self._closed: EngineError | None = None

    def add(self, prompt: Prompt) -> Pending:
        """Take `prompt` on; settled already where its deadline has passed or the holdings are closed."""
        pending, number = Pending(prompt), next(self._numbers)
        if prompt.deadline <= time.monotonic():
            pending.expire()
            return pending
        with self._lock:
            closed = self._closed
            if closed is None:
                self._held.setdefault(prompt.id, {})[number] = pending
        if closed is not None:
            pending.fail(EngineError(str(closed)))
            return pending
        timer = self._timers.at(prompt.deadline, pending.expire)
        # not `held` itself: its future keeps the callback, and its images are not to wait for the garbage collector
        pending.future.add_done_callback(partial(self._let_go, prompt.id, number, timer))
        return pending

    def cancel(self, id: str) -> None:
        """Settle the prompt with Cancelled; an unknown id is ignored."""
        with self._lock:
            found = tuple(self._held.get(id, {}).values())
        for pending in found:
            pending.fail(Cancelled("cancelled"))

    def close(self, error: EngineError) -> None:
        """Settle everything, and whatever is held later, with `error`; the first one stands."""
        with self._lock:
            self._closed = self._closed or error
            everything = [pending for same_id in self._held.values() for pending in same_id.values()]
        for pending in everything:
            pending.fail(EngineError(str(error)))

    def __contains__(self, id: str) -> bool:
        return id in self._held

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._held.values()))

    def _let_go(self, id: str, number: int, timer: Timer, _: Future[Completion]) -> None:
        timer.cancel()
        with self._lock:
            same_id = self._held[id]
            del same_id[number]
            if not same_id:
                del self._held[id]
