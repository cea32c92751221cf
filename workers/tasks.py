"""The Celery task `vqa.answer`: each delivered message becomes one attempt at one job."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request
from celery.worker.state import task_ready

from vqa.celery import TASK
from vqa.errors import Cancelled, VQAError
from vqa.ledger.commands import outcome_key
from vqa.ledger.records import Refusal
from vqa.redis.connection import REDIS_ERRORS
from vqa.redis.error_replies import describe
from vqa.results import decode
from vqa.routing import lane_of, model_of
from workers.jobs.attempt import Attempts, ShuttingDown
from workers.jobs.endings import Delayed
from workers.jobs.foreign import ForeignJob
from workers.jobs.task_events import telling

log = logging.getLogger(__name__)

#: pause before a message returns to its list after a Redis error
_PAUSE_S = 1.0

#: the body of a wake-up, which carries an id alone; None may be the body of a foreign job
_NO_BODY = object()


class _ClosedBefore(Ignore):  # type: ignore[misc]  # celery has no types
    """The message's job was closed by another process than a worker's thread, with this error."""

    def __init__(self, error: VQAError) -> None:
        super().__init__()
        self.error = error


def _say_started(eventer: Any, id: str, shown: Mapping[str, Any]) -> None:
    if eventer is not None and eventer.enabled:
        # Flower searches these by `kwargs:lane=bulk`
        eventer.send("task-started", uuid=id, kwargs=repr(dict(shown)))


class PrivateRequest(Request):  # type: ignore[misc]  # celery has no types
    """A delivered message that shows only its id in events, `inspect` and logs, never the user's text."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._argsrepr, self._kwargsrepr = f"({self.id})", "{}"
        # read by the log records of Celery's tracer
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)
        # without a reference to this request, which would be a cycle for the garbage collector
        self._request_dict["say_started"] = partial(_say_started, self._eventer, self.id)

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

    def send_event(self, type: str, **fields: Any) -> None:
        """Leave `task-started` to the thread that takes the job, which knows what it is."""
        if type == "task-started":
            return
        if type == "task-received":
            # so that a second message of a job does not hide what is known of it
            del fields["kwargs"]
            fields["routing_key"] = (self.delivery_info or {}).get("routing_key")
        super().send_event(type, **fields)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> None:
        """Report a cancelled job as revoked, not as failed, and one that was closed before it was taken, too."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, _ClosedBefore):
            super().on_failure(exc_info, *args, **kwargs)
            error = error.error
            if not isinstance(error, Cancelled):
                self.send_event("task-failed", exception=repr(error), traceback="")
        elif isinstance(error, Cancelled):
            task_ready(self)
            self.acknowledge()
        else:
            super().on_failure(exc_info, *args, **kwargs)
        if isinstance(error, Cancelled):
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
        queue = str((self.request.delivery_info or {}).get("routing_key"))
        try:
            if self.attempts is None:
                raise ShuttingDown
            foreign = None if body is _NO_BODY else ForeignJob(body, model_of(queue))
            with telling(self.request.get("say_started")):
                refusal = self.attempts.answer(self.request.id, foreign, lane_of(queue))
            if refusal is not None:
                log.debug("message of job %s is dropped, its job is %s", self.request.id, refusal)
                raise self._dropped(refusal)
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

    def _dropped(self, refusal: Refusal) -> Ignore:
        """Return what ends the message's task; the error of a job that was cancelled or overdue before it was taken."""
        if refusal != "closed" or not (data := self.backend.get(outcome_key(self.request.id))):
            return Ignore()
        outcome = decode(self.backend, data)
        return _ClosedBefore(outcome) if isinstance(outcome, VQAError) else Ignore()


def register(app: Celery, attempts: Attempts) -> None:
    """Let this app's `vqa.answer` answer with these attempts."""
    app.tasks[TASK].attempts = attempts
