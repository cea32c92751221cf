"""Celery's remote control commands, as Flower's buttons and `celery control` send them.

`revoke` and `terminate` cancel jobs: Celery's own versions keep the ids in the memory of the workers that run now, drop
their messages without an outcome, refuse the same id for ever, and do not stop what a threads pool is running. Commands
that would break a promise, such as `cancel_consumer`, which leaves a lane without workers, are refused with a reason.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from celery.worker.control import Panel, nok, ok

from vqa.celery import TASK
from vqa.errors import Cancelled
from vqa.ledger.closing import Closing
from vqa.redis.connection import REDIS_ERRORS
from vqa.redis.error_replies import describe
from workers.consumer.sanitize import usable_id

log = logging.getLogger(__name__)

_LANES = "every worker serves every lane; to stop this worker, send `shutdown`"
_SLOTS = "the number of slots is fixed when a worker starts (VQA_SLOTS)"
_EVENTS = "Flower shows what workers do by their events"

#: the reasons for which commands are refused
REFUSED: Mapping[str, str] = {
    "add_consumer": _LANES,
    "cancel_consumer": _LANES,
    "autoscale": _SLOTS,
    "pool_grow": _SLOTS,
    "pool_shrink": _SLOTS,
    "pool_restart": "restart the worker: send `shutdown`, its supervisor starts a new one",
    "rate_limit": "jobs that wait for a rate limit would miss their deadlines; limit a tenant by VQA_TENANT_MOST",
    "time_limit": "a job has a timeout of its own, by default VQA_INTERACTIVE_TIMEOUT_S or VQA_BULK_TIMEOUT_S",
    "disable_events": _EVENTS,
    "revoke_by_stamped_headers": "jobs have no stamps; revoke them by id",
    "election": "workers elect no leader",
    "memdump": "it would hold up all jobs",
    "memsample": "it would hold up all jobs",
    "objgraph": "it would hold up all jobs",
}

#: commands that only read, that are replaced below, or `workers.consumer.rollout`
_ALLOWED = """
    active active_queues clock conf dump_active dump_conf dump_reserved dump_revoked dump_schedule dump_tasks
    enable_events heartbeat hello ping query_task registered report reserved revoke revoked rollout scheduled shutdown
    stats terminate
"""


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

    ids = "[id1 [id2 [... [idN]]]]"
    Panel.register(name="revoke", variadic="task_id", signature=ids)(revoke)
    Panel.register(name="terminate", args=[("signal", str)], variadic="task_id", signature=f"<signal> {ids}")(terminate)
    Panel.register(name="hello", type="inspect")(_hello)
    Panel.register(name="shutdown")(_shutdown)
    for name in Panel.data.keys() - set(_ALLOWED.split()):
        # the command's own description stays, so that `celery control` accepts its arguments
        Panel.data[name] = _refusal(name, REFUSED.get(name, "workers do not know this command"))


def _refusal(name: str, reason: str) -> Callable[..., dict[str, str]]:
    def refuse(state: Any, **_: Any) -> dict[str, str]:
        log.warning("remote control: %s is refused: %s", name, reason)
        return dict(nok(f"{name} is refused: {reason}"))

    return refuse


def _hello(state: Any, from_node: object = None, **_: Any) -> dict[str, Any] | None:
    """Answer a Celery worker that starts. The ids that it has revoked are ignored: their jobs would get no outcome."""
    return None if from_node == state.hostname else {"revoked": [], "clock": state.app.clock.forward()}


def _shutdown(state: Any, **_: Any) -> dict[str, str]:
    """Drain as on SIGTERM; Celery's own version would wait for running jobs without a limit."""
    log.warning("remote control: shutdown")
    os.kill(os.getpid(), signal.SIGTERM)
    return dict(ok("draining; a supervisor starts a new worker in its place"))


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
        log.warning("remote control cancelled %d of %d jobs: %s", len(cancelled), len(ids), describe(error))
        return dict(nok(f"Redis did not answer ({describe(error)}); {len(cancelled)} cancelled"))
    return dict(ok(f"cancelled: {', '.join(cancelled) or 'none, or by another worker'}"))


def _send_revoked_event(state: Any, id: str, terminated: bool) -> None:
    events = state.consumer.event_dispatcher
    if events is not None and events.enabled:
        # with the task's name: Flower has none for a job that no worker has received
        events.send("task-revoked", uuid=id, name=TASK, terminated=terminated, signum=None, expired=False)
