"""How a worker process ends before its jobs do: it stops popping, gives back the jobs that it holds, and exits.

This happens on a second SIGTERM, when the drain takes too long, and when the engine crashed or hangs.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection
from typing import NoReturn

from celery.worker import state

from vqa.errors import EngineError
from vqa.ledger.records import Lease
from vqa.log.output import protect_output
from vqa.redis.connection import REDIS_ERRORS
from vqa.redis.error_replies import describe
from workers.engine.base import Engine, Stall
from workers.jobs.attempt import Attempts
from workers.supervisor.link import EXIT_CRASHED, EXIT_HUNG

log = logging.getLogger(__name__)

#: time for a message that was being popped when the consumer was stopped to arrive
_SETTLE_S = 0.3
#: time to give jobs back; after it, their leases run out and another worker's janitor publishes them
_GIVE_BACK_S = 5.0
#: time for threads that are not stuck to end
_END_S = 1.0
#: time for the engine to end; its card is free then, and the supervisor may start the next worker
_END_ENGINE_S = 12.0


class Shutdown:
    """Ends the process, once; any thread may begin it."""

    def __init__(self, stop_popping: Callable[[], None]) -> None:
        self._stop_popping = stop_popping
        self._begun = threading.Lock()
        #: None until the model is loaded
        self.attempts: Attempts | None = None
        self.engine: Engine | None = None

    def engine_crashed(self, error: BaseException, ids: Collection[str]) -> None:
        """Shut down because of an error in the engine, which was computing the prompts `ids`."""
        log.critical("the engine crashed, this worker ends", exc_info=error)
        # one in a process of its own has said already what happened
        why = str(error) if isinstance(error, EngineError) else f"the engine crashed ({type(error).__name__})"
        self.begin(EXIT_CRASHED, why, ids)

    def engine_hung(self, stall: Stall) -> None:
        """Shut down because the engine hangs, or the thread that consumes messages."""
        who = "the consumer" if stall.phase == "consume" else "the engine"
        log.critical("%s hangs, this worker ends: no sign of life for %.0f s in %s", who, stall.silent_s, stall.phase)
        self.begin(EXIT_HUNG, f"{who} hung in {stall.phase}", stall.ids)

    def begin(self, status: int, why: str, charged: Collection[str] = ()) -> None:
        """Exit with this status soon. The jobs in `charged` may be the cause: for them the attempt counts."""
        if not self._begun.acquire(blocking=False):
            return
        held = []
        if self.attempts is not None:
            # listed before and after: once the event is set, the threads of a crashed engine's jobs drop their leases
            held = self.attempts.leases.held()
            self.attempts.shutting_down.set()
            held += self.attempts.leases.held()
        level = logging.ERROR if status else logging.INFO
        count = len({lease.token for lease in held})
        log.log(level, "shutting down: %s; %d jobs return to the queue", why, count)
        self._stop_popping()
        # Celery's consumer ends, too, and returns messages that no thread has begun
        state.should_stop = status
        # not a daemon, as a thread that a daemon starts would be by default: Celery's exit would cut it short
        arguments = (status, held, set(charged), EngineError(why))
        threading.Thread(target=self._exit, args=arguments, name="shutdown", daemon=False).start()

    def _exit(self, status: int, held: list[Lease], charged: set[str], error: EngineError) -> NoReturn:
        try:
            if self.attempts is not None:
                threading.Event().wait(_SETTLE_S)
                arguments = (self.attempts, held, charged, error)
                thread = threading.Thread(target=self._give_back, args=arguments, daemon=True)
                thread.start()
                thread.join(_GIVE_BACK_S)
                threading.Event().wait(_END_S)
            protect_output().drain()
        finally:
            self._end_engine()
            # an ordinary exit would wait for threads, which may be stuck
            os._exit(status)

    def _end_engine(self) -> None:
        if self.engine is not None:
            thread = threading.Thread(target=self.engine.stop, daemon=True)
            thread.start()
            thread.join(_END_ENGINE_S)

    def _give_back(self, attempts: Attempts, held: list[Lease], charged: set[str], error: EngineError) -> None:
        leases = {lease.token: lease for lease in [*held, *attempts.leases.held()]}
        try:
            log.info("%d jobs returned to the queue", attempts.give_back(list(leases.values()), charged, error))
        except REDIS_ERRORS as failure:
            failed = "returning jobs to the queue failed (%s): they return when their leases run out"
            log.warning(failed, describe(failure))
        attempts.leases.stop()
