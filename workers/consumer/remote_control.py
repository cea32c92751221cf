"""Celery's remote control commands `revoke` and `terminate`, which Flower's buttons send: here they cancel jobs.

Celery's own keep the ids in the memory of the workers that are up, drop their messages without an outcome, refuse the
same id for ever after, and do nothing to what runs in a threads pool.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from celery import Celery
from celery.worker.control import Panel, nok, ok

from vqa.celery import TASK
from vqa.connection import UNREACHED, connect
from vqa.errors import Cancelled
from vqa.ledger.closing import Closing
from vqa.ledger.ledger import Ledger
from vqa.settings import QueueSettings
from workers.consumer.sanitize import usable_id

log = logging.getLogger(__name__)

#: cancels the job of that id; False where it has ended. Raises one of UNREACHED
Cancel = Callable[[str], bool]


@dataclass(frozen=True)
class Cancelling:
    """A `Cancel` that is durable: whoever holds the job is told, and a message that comes later is refused."""

    settings: QueueSettings
    closing: Closing

    @classmethod
    def of(cls, app: Celery, settings: QueueSettings) -> Self:
        """With a connection of its own: the consumer's thread waits for it, and has no minute to spare."""
        ledger = Ledger(connect(settings), settings.limits.unbounded)
        return cls(settings, Closing(app, ledger, settings.result_ttl_s))

    def __call__(self, id: str) -> bool:
        """Cancel the job of that id, also one that nobody knows yet: its message may wait in Celery's lists."""
        self.closing.ledger.accept(id, "bulk", b"", self.settings.bulk_timeout_s)
        return self.closing.close(id, Cancelled("the job was revoked by remote control"))


def register(cancel: Cancel) -> None:
    """Replace Celery's commands in this process. All workers hear a command; one of them cancels."""

    def revoke(state: Any, task_id: object = None, terminate: object = False, **_: Any) -> dict[str, str]:
        """Cancel jobs by id, waiting or running."""
        return _revoke(state, cancel, task_id, bool(terminate))

    def terminate(state: Any, signal: object = None, task_id: object = None, **_: Any) -> dict[str, str]:
        """Cancel jobs by id; the signal means nothing here."""
        return _revoke(state, cancel, task_id, True)

    def revoke_by_stamped_headers(state: Any, **_: Any) -> dict[str, str]:
        """Jobs keep no stamps."""
        return dict(nok("jobs keep no stamps; revoke them by id"))

    several = "[id1 [id2 [... [idN]]]]"
    Panel.register(name="revoke", variadic="task_id", signature=several)(revoke)
    Panel.register(name="terminate", args=[("signal", str)], variadic="task_id", signature=f"<signal> {several}")(
        terminate
    )
    Panel.register(name="revoke_by_stamped_headers", variadic="headers")(revoke_by_stamped_headers)


def _revoke(state: Any, cancel: Cancel, task_id: object, terminate: bool) -> dict[str, str]:
    words = list(task_id) if isinstance(task_id, list | tuple | set) else [task_id]
    ids = [id for word in words if (id := usable_id(word)) is not None]
    if len(ids) < len(words):
        return dict(nok("a job's id is a text of at most 128 letters, digits and ._:@+-; nothing was cancelled"))
    cancelled = []
    try:
        for id in dict.fromkeys(ids):
            if cancel(id):
                log.info("job %s is cancelled by remote control", id)
                _tell(state, id, terminate)
                cancelled.append(id)
    except UNREACHED as error:
        log.warning("remote control could not cancel: %s", type(error).__name__)
        return dict(nok(f"Redis did not answer ({type(error).__name__}); {len(cancelled)} cancelled"))
    return dict(ok(f"cancelled: {', '.join(cancelled) or 'none, or by another worker'}"))


def _tell(state: Any, id: str, terminated: bool) -> None:
    """Flower shows the job as revoked; its name too, where no worker has received it."""
    events = state.consumer.event_dispatcher
    if events is not None and events.enabled:
        events.send("task-revoked", uuid=id, name=TASK, terminated=terminated, signum=None, expired=False)
