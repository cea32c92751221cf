"""Celery's remote control commands `revoke` and `terminate`, sent by Flower's buttons: here they cancel jobs.

Celery's own versions keep the ids in the memory of the workers that run now, drop their messages without an outcome,
refuse the same id for ever, and do not stop what a threads pool is running.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery.worker.control import Panel, nok, ok

from vqa.celery import TASK
from vqa.connection import REDIS_ERRORS
from vqa.errors import Cancelled
from vqa.ledger.closing import Closing
from workers.consumer.sanitize import usable_id

log = logging.getLogger(__name__)


def register_commands(closing: Closing, timeout_s: float) -> None:
    """Replace Celery's commands in this process. Every worker receives a command, and one of them cancels the job."""

    def cancel(id: str) -> bool:
        # an unknown id is accepted first (with this timeout): its message may still wait in Celery's lists
        closing.ledger.accept(id, "bulk", b"", timeout_s)
        return closing.close(id, Cancelled("the job was revoked by remote control"))

    def revoke(state: Any, task_id: object = None, terminate: object = False, **_: Any) -> dict[str, str]:
        """Cancel jobs by id, waiting or running."""
        return _revoke(state, cancel, task_id, bool(terminate))

    def terminate(state: Any, signal: object = None, task_id: object = None, **_: Any) -> dict[str, str]:
        """Cancel jobs by id; the signal is ignored."""
        return _revoke(state, cancel, task_id, True)

    def revoke_by_stamped_headers(state: Any, **_: Any) -> dict[str, str]:
        """Return an error: jobs have no stamps."""
        return dict(nok("jobs have no stamps; revoke them by id"))

    ids = "[id1 [id2 [... [idN]]]]"
    Panel.register(name="revoke", variadic="task_id", signature=ids)(revoke)
    Panel.register(name="terminate", args=[("signal", str)], variadic="task_id", signature=f"<signal> {ids}")(terminate)
    Panel.register(name="revoke_by_stamped_headers", variadic="headers")(revoke_by_stamped_headers)


def _revoke(state: Any, cancel: Callable[[str], bool], task_id: object, terminate: bool) -> dict[str, str]:
    named = list(task_id) if isinstance(task_id, list | tuple | set) else [task_id]
    ids = [id for name in named if (id := usable_id(name)) is not None]
    if len(ids) < len(named):
        return dict(nok("a job id has 1 to 128 characters: letters, digits and ._:@+-; nothing was cancelled"))
    cancelled = []
    try:
        for id in dict.fromkeys(ids):
            if cancel(id):
                log.info("job %s is cancelled by remote control", id)
                _send_revoked_event(state, id, terminate)
                cancelled.append(id)
    except REDIS_ERRORS as error:
        log.warning("remote control cancelled %d of %d jobs: %s", len(cancelled), len(ids), type(error).__name__)
        return dict(nok(f"Redis did not answer ({type(error).__name__}); {len(cancelled)} cancelled"))
    return dict(ok(f"cancelled: {', '.join(cancelled) or 'none, or by another worker'}"))


def _send_revoked_event(state: Any, id: str, terminated: bool) -> None:
    events = state.consumer.event_dispatcher
    if events is not None and events.enabled:
        # with the task's name: Flower has none for a job that no worker has received
        events.send("task-revoked", uuid=id, name=TASK, terminated=terminated, signum=None, expired=False)
