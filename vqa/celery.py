"""The Celery app that producers and workers share, and the messages that announce jobs to workers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu import Producer, Queue
from kombu.exceptions import KombuError

from vqa.jobs.lane import LANES
from vqa.redis.connection import REDIS_ERRORS, RETRY_S, cause_of, lost_host_options, sentinel_limits, socket_limits
from vqa.redis.error_replies import describe
from vqa.redis.retry import RetryFor
from vqa.settings import QueueSettings

log = logging.getLogger(__name__)

#: name of the only task
TASK = "vqa.answer"

#: Celery's default queue, for jobs that other apps send without naming a lane
DEFAULT_QUEUE = "celery"

_QUEUES = [Queue(name, routing_key=name) for name in (*LANES, DEFAULT_QUEUE)]

#: body of a message by Celery's task protocol 2, without arguments: the job's id is in the headers
BODY = '[[],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'


class _App(Celery):  # type: ignore[misc]  # Celery is Any to mypy
    """Celery that heeds VQA_REDIS_URL alone.

    CELERY_BROKER_URL and the like win over an app's own settings, and in a producer they are those of another app.
    """

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        return super().connection_for_read(url or self.conf["broker_url"], **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        return super().connection_for_write(url or self.conf["broker_url"], **options)

    def connection(self, hostname: str | None = None, **options: Any) -> Any:
        return self.connection_for_write(hostname, **options)


def make_app(settings: QueueSettings) -> Celery:
    """Return a Celery app configured for jobs that take seconds on a GPU."""
    app = _App("vqa", set_as_current=False)
    app.conf.update(
        **_connection_conf(settings),
        # only JSON is read and written, so that no message can run code
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        # a process owns one card and one copy of the weights; its threads only wait for the engine
        worker_pool="threads",
        # acknowledged when the job is closed: until then a message counts towards the prefetch, and kombu's copy of
        # another app's message survives a killed worker
        task_acks_late=True,
        # one message per thread: more would wait here while another card is idle
        worker_prefetch_multiplier=1,
        task_queues=_QUEUES,
        task_default_queue=DEFAULT_QUEUE,
        broker_connection_retry_on_startup=True,
        # retry for ever: a worker survives an hour without Redis
        broker_connection_max_retries=None,
        # the ledger refuses the redelivered message of a job that still runs here
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # `AsyncResult.get()` survives a short outage of Redis; the ledger's `close` writes the outcomes
        result_backend_always_retry=True,
        result_expires=settings.result_ttl_s,
        # for Flower's live view; the events carry ids and states, but no user data
        worker_send_task_events=True,
        task_send_sent_event=False,
        # the worker's lifecycle sets up logging
        worker_hijack_root_logger=False,
    )
    app.backend_cls = app.conf["result_backend"]
    return app


def _connection_conf(settings: QueueSettings) -> dict[str, Any]:
    """Return the part of Celery's configuration that concerns connections to Redis."""
    address, limits = settings.address, socket_limits(settings)
    urls, backend, sentinel = address.urls(), "OutcomeBackend", {}
    conf: dict[str, Any] = {f"redis_{name}": limit for name, limit in limits.items()}
    options: dict[str, Any] = {
        # seconds that a pop blocks; `workers.consumer.lanes` decides the order of the lists
        "polling_interval": 0.1,
        **limits,
        "socket_keepalive_options": lost_host_options(),
    }
    if address.master is not None:
        backend = "SentinelOutcomeBackend"
        own = address.sentinel_options() | sentinel_limits(settings)
        sentinel = {"master_name": address.master, "sentinel_kwargs": own}
        options |= sentinel
    if address.tls is not None:
        # as settings, because Flower does not read them from the URLs
        conf |= {"broker_use_ssl": dict(address.tls), "redis_backend_use_ssl": dict(address.tls)}
    return conf | {
        "broker_url": ";".join(urls),
        "broker_transport_options": options,
        "result_backend": f"vqa.results:{backend}+{';'.join(urls)}",
        "result_backend_transport_options": sentinel,
    }


def wake(app: Celery, jobs: Sequence[tuple[str, str]]) -> None:
    """Publish messages for jobs that are in the ledger, given as (id, queue), in one round trip.

    Raises one of connection.REDIS_ERRORS.

    Retries temporary errors on a fresh connection for up to RETRY_S seconds. Messages may be sent twice;
    the ledger's `take` refuses the second one.
    """

    def send() -> None:
        try:
            # an error inside the context replaces the producer's connection, so that the next try has a fresh one
            with app.producer_or_acquire() as producer, producer.batch(max(1, len(jobs))):
                for id, queue in jobs:
                    publish(producer, id, queue)
        except KombuError as error:
            raise cause_of(error) from None

    RetryFor(RETRY_S).call_with_retry(send, lambda error: None)


def publish_promoted(app: Celery, promoted: Sequence[str], queue: str = "bulk") -> None:
    """Publish the bulk jobs that a `take` or a `close` promoted to a queue. Redis errors are only logged."""
    if not promoted:
        return
    try:
        wake(app, [(id, queue) for id in promoted])
    except REDIS_ERRORS as error:
        # the janitor publishes queued jobs without a message later
        log.warning("cannot publish %d jobs (%s); the janitor will publish them", len(promoted), describe(error))


def publish(producer: Producer, id: str, queue: str) -> None:
    """Push one message, which carries only the job's id, onto the list of its queue."""
    headers: dict[str, Any] = {"lang": "py", "task": TASK, "id": id, "root_id": id, "retries": 0, "ignore_result": True}
    # the anonymous exchange delivers to the list of that name without looking up a binding
    producer.publish(
        BODY,
        exchange="",
        routing_key=queue,
        content_type="application/json",
        content_encoding="utf-8",
        headers=headers,
        correlation_id=id,
    )
