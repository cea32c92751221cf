"""The one task, `vqa.answer`: what Celery delivers becomes one attempt at one job."""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request
from celery.worker.state import task_ready

from vqa.celery import TASK
from vqa.connection import UNREACHED
from vqa.errors import Cancelled, VQAError
from vqa.job import Lane
from workers.jobs.attempt import Attempts, Delayed, Leaving
from workers.jobs.foreign import Foreign

log = logging.getLogger(__name__)

#: before a message whose job Redis refused goes back
_PAUSE_S = 1.0

#: the body of our own messages: the id is all there is
_NOTHING = object()


class PrivateRequest(Request):  # type: ignore[misc]  # celery has no types
    """A delivered message that shows its id alone: in events, in `inspect` and in logs no word of a user is seen."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._argsrepr, self._kwargsrepr = f"({self.id})", "{}"
        # the tracer's log records take theirs from here
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    @property
    def argsrepr(self) -> str:
        """What Flower shows as arguments."""
        return self._argsrepr

    @property
    def kwargsrepr(self) -> str:
        """What Flower shows as keyword arguments."""
        return self._kwargsrepr

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What remote control, and by it Flower's page of a worker, shows."""
        info: dict[str, Any] = super().info(safe=True)
        return info

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> None:
        """What somebody cancelled is shown as revoked, not as failed."""
        error = exc_info.exception
        if not isinstance(getattr(error, "exc", error), Cancelled):
            super().on_failure(exc_info, *args, **kwargs)
            return
        task_ready(self)
        self.acknowledge()
        self.send_event("task-revoked", terminated=True, signum=None, expired=False)


class AnswerTask(Task):  # type: ignore[misc]  # celery has no types
    """Bound to the process's `Attempts` when the worker has loaded its model."""

    name = TASK
    Request = PrivateRequest
    #: outcomes are written by the ledger's `close`, with the attempt as its fence; Celery writes none
    ignore_result = True
    #: one log line for an expected failure
    throws = (VQAError,)
    #: what Flower shows of a return value, which is None
    resultrepr_maxsize = 1
    #: None until the model is loaded
    attempts: Attempts | None = None

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Answer the job of this task's id, or adopt the one that another Celery app put into the message."""
        body = args[0] if args else kwargs.get("job", kwargs or _NOTHING)
        routing_key = (self.request.delivery_info or {}).get("routing_key")
        lane: Lane = "interactive" if routing_key == "interactive" else "bulk"
        try:
            if self.attempts is None:
                raise Leaving
            refusal = self.attempts.answer(self.request.id, None if body is _NOTHING else Foreign(body), lane)
            if refusal is not None:
                log.debug("message of job %s is not needed: %s", self.request.id, refusal)
                raise Ignore
        except Leaving:
            raise Reject(requeue=True) from None
        except Delayed as delayed:
            # Flower shows a retry; Celery publishes nothing, the ledger holds the job
            raise Retry(exc=delayed.error, when=delayed.delay_s) from None
        except UNREACHED as error:
            log.warning("job %s goes back to the queue: %s", self.request.id, type(error).__name__)
            # it comes back at once, and Redis may go on refusing
            time.sleep(_PAUSE_S)
            raise Reject(requeue=True) from None


def register(app: Celery, attempts: Attempts) -> None:
    """Let this app's workers answer with these attempts."""
    app.tasks[TASK].attempts = attempts
