"""Cancels the jobs of streams that were left early."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from producer.client.job_queue import JobQueue
from vqa.errors import QueueUnavailable
from vqa.forks import restart_in_children

log = logging.getLogger(__name__)

_THREADS = 4

#: seconds that `close` waits for cancellations in progress
_CLOSE_S = 2.0


class Withdrawals:
    """Cancels jobs in threads of its own: a destructor, which must not wait for a lock, may ask for it."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self.start()
        restart_in_children(self)

    def start(self) -> None:
        """Make a new executor; a forked child calls it again, because it has none of the threads."""
        self._executor = ThreadPoolExecutor(_THREADS, "vqa-withdrawals")
        self._pending: set[Future[None]] = set()

    def close(self) -> None:
        """Finish what was asked for, as far as Redis answers. `queue.closing` must not be set yet."""
        wait(self._pending.copy(), _CLOSE_S)
        self._executor.shutdown(wait=False)

    def withdraw(
        self, id: str, leave: Callable[[], None] | None = None, submission: Future[None] | None = None
    ) -> Future[None]:
        """Call `leave`, and cancel the job once its submission has ended; the future never fails.

        Raises RuntimeError after `close`.
        """
        future = self._executor.submit(self._withdraw, id, leave, submission)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def _withdraw(self, id: str, leave: Callable[[], None] | None, submission: Future[None] | None) -> None:
        if leave is not None:
            leave()
        if submission is not None and not isinstance(submission.exception(), QueueUnavailable | None):
            # it was not accepted
            return
        try:
            self._queue.cancel(id)
        except QueueUnavailable as error:
            log.warning("job %s was left and could not be cancelled, so it runs to its end: %s", id, error)
        except RuntimeError:
            # the client is closed: open jobs continue
            pass
