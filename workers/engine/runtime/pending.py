"""Prompts that an engine has accepted, each with a future that is settled once: by the first answer or error."""

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
    # callers cannot cancel a running future: only the engine may end a prompt
    future.set_running_or_notify_cancel()
    return future


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A prompt and the future of its answer."""

    prompt: Prompt
    future: Future[Completion] = field(default_factory=_running)
    #: on `time.monotonic()`'s clock
    since: float = field(default_factory=time.monotonic)

    @property
    def settled(self) -> bool:
        """Whether the prompt was answered or failed: computing more for it is useless."""
        return self.future.done()

    def answer(self, completion: Completion) -> bool:
        """Settle with a completion; return False if already settled."""
        try:
            self.future.set_result(completion)
        except InvalidStateError:
            return False
        return True

    def fail(self, error: VQAError) -> bool:
        """Settle with an error; return False if already settled."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            return False
        return True

    def expire(self) -> None:
        self.fail(DeadlineExceeded("the deadline passed before the answer was ready"))


class PendingPrompts:
    """All prompts that an engine has not settled yet, each with a timer at its deadline.

    A deadline or a cancellation settles the future at once, from the timers' or the caller's thread; the computing
    thread sees `settled` at its next step.
    """

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        #: by id, then by the order of arrival: an id may be submitted again while it is pending
        self._by_id: dict[str, dict[int, Pending]] = {}
        self._closed: EngineError | None = None

    def add(self, prompt: Prompt) -> Pending:
        """Accept a prompt; it is settled already if its deadline has passed or `close` was called."""
        pending, number = Pending(prompt), next(self._numbers)
        if prompt.deadline <= time.monotonic():
            pending.expire()
            return pending
        with self._lock:
            closed = self._closed
            if closed is None:
                self._by_id.setdefault(prompt.id, {})[number] = pending
        if closed is not None:
            pending.fail(EngineError(str(closed)))
            return pending
        timer = self._timers.at(prompt.deadline, pending.expire)
        # the callback must not reference `pending`: that cycle would keep the images until a garbage collection
        pending.future.add_done_callback(partial(self._remove, prompt.id, number, timer))
        return pending

    def cancel(self, id: str) -> None:
        """Settle the prompts of this id with Cancelled; ignore an unknown id."""
        with self._lock:
            found = tuple(self._by_id.get(id, {}).values())
        for pending in found:
            pending.fail(Cancelled("cancelled"))

    def close(self, error: EngineError) -> None:
        """Settle all prompts, and those added later, with `error`; a second call keeps the first error."""
        with self._lock:
            self._closed = self._closed or error
            everything = [pending for same_id in self._by_id.values() for pending in same_id.values()]
        for pending in everything:
            pending.fail(EngineError(str(error)))

    def __contains__(self, id: str) -> bool:
        return id in self._by_id

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._by_id.values()))

    def _remove(self, id: str, number: int, timer: Timer, _: Future[Completion]) -> None:
        timer.cancel()
        with self._lock:
            same_id = self._by_id[id]
            del same_id[number]
            if not same_id:
                del self._by_id[id]
