"""The Celery app that producers and workers share, and the message that wakes a worker up for a job."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu import Producer, Queue
from redis.exceptions import OutOfMemoryError

from vqa.connection import REDIS_ERRORS, RETRY_S, cause_of, sentinel_limits, socket_limits
from vqa.job import LANES, Lane
from vqa.settings import QueueSettings

log = logging.getLogger(__name__)

#: the one task
TASK = "vqa.answer"

#: Celery's own default queue: jobs that other apps send without naming a lane
DEFAULT_QUEUE = "celery"

_QUEUES = [Queue(name, routing_key=name) for name in (*LANES, DEFAULT_QUEUE)]

#: seconds before wake-ups that could not be sent are tried once more
_PAUSES_S = (0.05, 0.5)

#: Celery's task protocol 2 with no arguments: the id in the headers is the whole message
BODY = '[[],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'


def make_app(settings: QueueSettings) -> Celery:
    """Celery, set up for jobs that take seconds on a card; each setting with its reason."""
    app = Celery("vqa", set_as_current=False)
    app.conf.update(
        **_places(settings),
        # nothing but JSON is read or written: no message can run code
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        # a process owns one card and one copy of the weights; its threads wait for the engine
        worker_pool="threads",
        # a message is acknowledged when its job is closed: until then it counts for the prefetch, and kombu's copy of
        # one that another app sent outlives a killed worker
        task_acks_late=True,
        # one message a thread: more would wait here while another card idles
        worker_prefetch_multiplier=1,
        task_queues=_QUEUES,
        task_default_queue=DEFAULT_QUEUE,
        broker_connection_retry_on_startup=True,
        # never stop trying: a worker outlives a Redis that is away for an hour
        broker_connection_max_retries=None,
        # a job whose message was pushed back by a lost connection is refused by the ledger if it still runs here
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # `AsyncResult.get()` goes on when Redis is away for a moment; outcomes are written by the ledger's `close`
        result_backend_always_retry=True,
        result_expires=settings.result_ttl_s,
        # Flower's live view; the events carry ids and states, no user's words
        worker_send_task_events=True,
        task_send_sent_event=False,
        # logs are set up by the worker's own lifecycle
        worker_hijack_root_logger=False,
    )
    return app


def _places(settings: QueueSettings) -> dict[str, Any]:
    """Where Celery's broker and result backend are, and how it speaks to them."""
    address, limits = settings.address, socket_limits(settings)
    urls, backend, sentinel = address.urls(), "OutcomeBackend", {}
    places: dict[str, Any] = {f"redis_{name}": limit for name, limit in limits.items()}
    options: dict[str, Any] = {
        # how long a pop blocks; in which order it looks at the lists is the workers' matter (`workers.consumer.lanes`)
        "polling_interval": 0.1,
        **limits,
    }
    if address.master is not None:
        backend = "SentinelOutcomeBackend"
        own = address.sentinel_options() | sentinel_limits(settings)
        sentinel = {"master_name": address.master, "sentinel_kwargs": own}
        options |= sentinel
    if address.tls is not None:
        # as settings and not in the urls, where Flower would not find them
        places |= {"broker_use_ssl": dict(address.tls), "redis_backend_use_ssl": dict(address.tls)}
    return places | {
        "broker_url": ";".join(urls),
        "broker_transport_options": options,
        "result_backend": f"vqa.results:{backend}+{';'.join(urls)}",
        "result_backend_transport_options": sentinel,
    }


def wake(app: Celery, jobs: Sequence[tuple[str, Lane]]) -> None:
    """Publish wake-ups for jobs that the ledger holds, in one round trip. Raises one of connection.REDIS_ERRORS.

    Tried again on a fresh connection, unless that took long already or Redis is full; a batch whose delivery is
    uncertain is sent once more, one too many is refused.
    """
    end = time.monotonic() + RETRY_S
    # leaving the producer's context by an error replaces its connection, so the next try has a fresh one
    for pause_s in (*_PAUSES_S, None):
        try:
            with app.producer_or_acquire() as producer, producer.batch(max(1, len(jobs))):
                for id, lane in jobs:
                    publish(producer, id, lane)
            return
        except REDIS_ERRORS as error:
            if pause_s is None or time.monotonic() > end or isinstance(cause_of(error), OutOfMemoryError):
                raise
            time.sleep(pause_s)


def publish_promoted(app: Celery, promoted: Sequence[str]) -> None:
    """Publish what it is now the turn of, as a `take` or a `close` says, as far as Redis is there."""
    if not promoted:
        return
    try:
        wake(app, [(id, "bulk") for id in promoted])
    except REDIS_ERRORS as error:
        # they are queued without a message, and the janitor finds such jobs
        log.warning("%d jobs wait for their message (%s)", len(promoted), type(error).__name__)


def publish(producer: Producer, id: str, lane: Lane) -> None:
    """Put one wake-up on its lane; the message carries the id alone."""
    headers: dict[str, Any] = {"lang": "py", "task": TASK, "id": id, "root_id": id, "retries": 0, "ignore_result": True}
    # the anonymous exchange delivers to the list of that name: no binding to look up
    producer.publish(
        BODY,
        exchange="",
        routing_key=lane,
        content_type="application/json",
        content_encoding="utf-8",
        headers=headers,
        correlation_id=id,
    )
