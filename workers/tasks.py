"""The Celery task `vqa.answer`: each delivered message becomes one attempt at one job."""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request
from celery.worker.state import task_ready

from vqa.celery import TASK
from vqa.connection import REDIS_ERRORS
from vqa.error_replies import describe
from vqa.errors import Cancelled, VQAError
from vqa.job import Lane
from workers.jobs.attempt import Attempts, Delayed, ShuttingDown
from workers.jobs.foreign import ForeignJob

log = logging.getLogger(__name__)

#: pause before a message returns to its list after a Redis error
_PAUSE_S = 1.0

#: the body of a wake-up, which carries an id alone; None may be the body of a foreign job
_NO_BODY = object()


class PrivateRequest(Request):  # type: ignore[misc]  # celery has no types
    """A delivered message that shows only its id in events, `inspect` and logs, never the user's text."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._argsrepr, self._kwargsrepr = f"({self.id})", "{}"
        # read by the log records of Celery's tracer
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    @property
    def argsrepr(self) -> str:
        return self._argsrepr

    @property
    def kwargsrepr(self) -> str:
        return self._kwargsrepr

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Return what remote control shows, and with it Flower's page of a worker."""
        info: dict[str, Any] = super().info(safe=True)
        return info

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> None:
        """Report a cancelled job as revoked, not as failed."""
        error = exc_info.exception
        if not isinstance(getattr(error, "exc", error), Cancelled):
            super().on_failure(exc_info, *args, **kwargs)
            return
        task_ready(self)
        self.acknowledge()
        self.send_event("task-revoked", terminated=True, signum=None, expired=False)


class AnswerTask(Task):  # type: ignore[misc]  # celery has no types
    """The task; it has `attempts` once the worker has loaded its model."""

    name = TASK
    Request = PrivateRequest
    #: Celery writes no outcome: the ledger's `close` does, if the attempt still holds its lease
    ignore_result = True
    #: errors that Celery logs in one line
    throws = (VQAError,)
    #: what Flower shows of the return value, which is None
    resultrepr_maxsize = 1
    attempts: Attempts | None = None

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Answer the job with this task's id, or the foreign job in the message's body."""
        body = args[0] if args else kwargs.get("job", kwargs or _NO_BODY)
        routing_key = (self.request.delivery_info or {}).get("routing_key")
        lane: Lane = "interactive" if routing_key == "interactive" else "bulk"
        try:
            if self.attempts is None:
                raise ShuttingDown
            refusal = self.attempts.answer(self.request.id, None if body is _NO_BODY else ForeignJob(body), lane)
            if refusal is not None:
                log.debug("message of job %s is dropped, its job is %s", self.request.id, refusal)
                raise Ignore
        except ShuttingDown:
            raise Reject(requeue=True) from None
        except Delayed as delayed:
            # so that Flower shows a retry; Celery publishes nothing, the ledger holds the job
            raise Retry(exc=delayed.error, when=delayed.delay_s) from None
        except REDIS_ERRORS as error:
            log.warning("job %s goes back to the queue: %s", self.request.id, describe(error))
            # the message is popped again at once, and Redis may still refuse
            time.sleep(_PAUSE_S)
            raise Reject(requeue=True) from None


def register(app: Celery, attempts: Attempts) -> None:
    """Let this app's `vqa.answer` answer with these attempts."""
    app.tasks[TASK].attempts = attempts
