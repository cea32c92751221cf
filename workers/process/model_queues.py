"""The queues of the models that a worker serves, which its Celery consumer takes from."""

from __future__ import annotations

import logging

from celery import Celery
from kombu import Queue
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from vqa.redis.error_replies import describe
from workers.jobs.served import Served

log = logging.getLogger(__name__)


def consume_models(app: Celery, redis: Redis, served: Served) -> Served:
    """Let Celery's consumer, which has not started yet, take from the queues of these models.

    Returns what is served: no named queues if Redis forbids them. Raises NotReady if it forbids names that were given.
    """
    try:
        for name in served.queues():
            redis.llen(name)
    except NoPermissionError:
        # an access list of an earlier release: Celery could pop nothing at all
        served = served.without_queues()
    except RedisError as error:
        log.warning("Redis does not answer yet (%s); Celery keeps trying to connect", describe(error))
    queues = app.amqp.queues
    queues.deselect(served.left_queues())
    for name in served.queues():
        queues.select_add(Queue(name, routing_key=name))
    return served
