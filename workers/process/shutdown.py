"""The one way in which a worker process ends before its jobs do: takes no more, hands on what it holds, ends.

On a second SIGTERM, when the time to drain is over, when the engine crashed or hangs.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Collection
from typing import NoReturn

from celery.worker import state

from vqa.connection import UNREACHED
from vqa.errors import EngineError
from vqa.ledger.records import Lease
from workers.jobs.attempt import Attempts

log = logging.getLogger(__name__)

#: a message that was being popped when the consumer was told to stop has arrived by then
_SETTLE_S = 0.3
#: for handing on; after that the leases run out and the janitors of others do it
_HAND_ON_S = 5.0
#: threads that are not stuck have so long to end by themselves
_END_S = 1.0


class Departure:
    """Begun once, by whoever comes first; ends the process."""

    def __init__(self, stop_taking: Callable[[], None]) -> None:
        self._stop_taking = stop_taking
        self._begun = threading.Lock()
        self.attempts: Attempts | None = None

    def begin(self, status: int, why: str, charged: Collection[str] = ()) -> None:
        """End with this exit status soon. `charged` are the jobs that had to do with it: their attempt is lost."""
        if not self._begun.acquire(blocking=False):
            return
        held = []
        if self.attempts is not None:
            # before and after: when a crashed engine's futures fail, their threads let go of what they hold
            held = self.attempts.leases.held()
            self.attempts.leaving.set()
            held += self.attempts.leases.held()
        log.log(logging.ERROR if status else logging.INFO, "leaving: %s; %d jobs go back to the queue", why, len(held))
        self._stop_taking()
        # Celery's own consumer ends, too, and puts back what no thread has begun
        state.should_stop = status
        # a thread is a daemon where its maker is one, and Celery's end would cut it short
        arguments = (status, held, set(charged), EngineError(why))
        threading.Thread(target=self._leave, args=arguments, name="departure", daemon=False).start()

    def _leave(self, status: int, held: list[Lease], charged: set[str], error: EngineError) -> NoReturn:
        try:
            if self.attempts is not None:
                threading.Event().wait(_SETTLE_S)
                hands = threading.Thread(target=self._hand_on, args=(self.attempts, held, charged, error), daemon=True)
                hands.start()
                hands.join(_HAND_ON_S)
                threading.Event().wait(_END_S)
            sys.stderr.flush()
        finally:
            # threads may be stuck in the model: an ordinary exit would wait for them
            os._exit(status)

    def _hand_on(self, attempts: Attempts, held: list[Lease], charged: set[str], error: EngineError) -> None:
        everything = {lease.token: lease for lease in [*held, *attempts.leases.held()]}
        try:
            log.info("%d jobs handed on", attempts.hand_on(list(everything.values()), charged, error))
        except UNREACHED as failure:
            log.warning("jobs could not be handed on (%s): their leases run out", type(failure).__name__)
        attempts.leases.stop()
