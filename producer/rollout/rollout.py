"""Restarts the chosen cards a few at a time, and goes on only while the others answer.

The cards' supervisors do the work: a command that ends in the middle leaves each card with the model before, with the
new one, or on the way to it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from celery import Celery
from redis import Redis
from redis.exceptions import LockNotOwnedError, RedisError

from producer.rollout.cards import Card
from producer.rollout.control import Control
from vqa.errors import NotReady
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import WorkerInfo
from vqa.rollout import ProcessInfo, Request, Target

#: between two looks at the list of workers
_LOOK_S = 0.25

#: one rollout at a time; the lock of a command that was killed ends after so many seconds
LOCK = "vqa:rollout"
_LOCK_S = 60.0

#: how long another worker may be away before the rollout ends
_OTHERS_S = 60.0

#: shows the cards whenever one has come further
Show = Callable[[Sequence[Card]], None]


class Rollout:
    """One run. Methods raise NotReady, and one of connection.REDIS_ERRORS."""

    def __init__(self, redis: Redis, app: Celery, lease_s: float, target: Target, watch_s: float) -> None:
        self._ledger = Ledger(redis)
        self._lease_s = lease_s
        self.request = Request(id=uuid.uuid4().hex, target=target, watch_s=watch_s)
        self._control = Control(app, self.request)
        self._lock = redis.lock(LOCK, timeout=_LOCK_S)
        #: `time.monotonic()` since when no other worker than the next one has answered
        self._silent_since: float | None = None
        #: workers that are left out as they have the model already
        self._having: set[str] = set()
        #: the model that each supervisor starts when it is itself restarted
        self.own: dict[str, Target] = {}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other rollout begin meanwhile. Raises NotReady if one is under way."""
        if not self._lock.acquire(blocking=False):
            raise NotReady(f"another rollout is under way; if its command was killed, try again in {_LOCK_S:.0f} s")
        try:
            yield
        finally:
            # it ends by itself
            with suppress(RedisError):
                self._lock.release()

    def check(self, cards: Sequence[Card]) -> None:
        """Ask all cards whether they would restart, before the first one does."""
        for name, said in self._control.check([card.name for card in cards]).items():
            self.own[name] = said.own
            next(card for card in cards if card.name == name).limit_s = said.limit_s + self.request.watch_s

    def run(self, cards: Sequence[Card], others: Sequence[str], at_once: int, allow_gap: bool, show: Show) -> None:
        """Restart the cards, `at_once` at a time, and watch each before the next.

        `others` are workers with the model already. Without `allow_gap`, one of them or of the cards must answer.
        """
        processes = _processes(self._ledger.workers(self._lease_s))
        self._having = {name for name in others if name in processes and processes[name].target == self.request.target}
        while any(card.phase != "ready" for card in cards):
            self._renew()
            self._look(cards)
            show(cards)
            card = next((card for card in cards if card.phase == "waiting"), None)
            full = sum(each.is_busy for each in cards) >= at_once
            if card is not None and not full and (allow_gap or self._others_answer(card, cards, others)):
                self._restart(card)
                show(cards)
            time.sleep(_LOOK_S)
        self._look(cards)

    def _renew(self) -> None:
        try:
            self._lock.reacquire()
        except LockNotOwnedError:
            raise NotReady("this command was stopped for too long, and another rollout may have begun") from None

    def _look(self, cards: Sequence[Card]) -> None:
        entries = {worker.name: worker for worker in self._ledger.workers(self._lease_s)}
        for card in cards:
            card.look(entries.get(card.name), self.request)
        for name, process in _processes(entries.values()).items():
            # an earlier run that was stopped may have left it on trial
            if name in self._having and process.target != self.request.target:
                why = process.failed or "see its log"
                raise NotReady(f"{name} had {self.request.target}, and now runs {process.target}: {why}")

    def _others_answer(self, card: Card, cards: Sequence[Card], others: Sequence[str]) -> bool:
        """Return whether somebody would answer jobs while this card restarts. Raises NotReady after _OTHERS_S."""
        staying = [each.name for each in cards if each is not card and not each.restarts]
        if self._control.answers([*staying, *others]):
            self._silent_since = None
            return True
        if any(each.restarts for each in cards):
            return False
        self._silent_since = self._silent_since or time.monotonic()
        if time.monotonic() - self._silent_since > _OTHERS_S:
            raise NotReady(f"no other worker answers, so nobody would while {card.name} restarts; start one")
        return False

    def _restart(self, card: Card) -> None:
        card.ask()
        try:
            self._control.restart(card.name)
        except NotReady:
            # it may have ended just now, which the list of workers tells; it was asked, if it says nothing
            if self._is_same(card):
                raise

    def _is_same(self, card: Card) -> bool:
        found = [worker for worker in self._ledger.workers(self._lease_s) if worker.name == card.name]
        card.look(found[0] if found else None, self.request)
        return card.phase == "draining" and bool(found)


def _processes(listed: Iterable[WorkerInfo]) -> dict[str, ProcessInfo]:
    processes = ((worker.name, ProcessInfo.from_about(worker.about)) for worker in listed)
    return {name: process for name, process in processes if process is not None}
