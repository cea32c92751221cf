"""What `vqa doctor` says of the models that jobs name."""

from __future__ import annotations

from collections.abc import Iterator

from redis import Redis

from producer.client.models import takes
from producer.monitor.checks import Finding
from vqa.celery import DEFAULT_QUEUE
from vqa.jobs.lane import LANES
from vqa.ledger.ledger import Ledger
from vqa.ledger.models import ModelRegistry, Models, model_queues
from vqa.routing import model_of, queue_name
from vqa.settings import QueueSettings

_UNNAMED = "start one without VQA_UNNAMED_JOBS=0"


def model_findings(redis: Redis, settings: QueueSettings) -> Iterator[Finding]:
    """Find models whose jobs no worker takes, and canaries that get none. Raises redis.exceptions.RedisError."""
    registry = ModelRegistry(redis, settings.model_keep_s, settings.lease_s)
    models, workers = registry.read(), Ledger(redis).workers(settings.lease_s)
    names = {name for queue in model_queues(redis) if (name := model_of(queue))}
    depths = registry.depths([queue_name(lane, name) for name in (None, *names) for lane in LANES])
    for name in (None, *sorted(names)):
        *counts, _ = map(sum, zip(*(depths[queue_name(lane, name)] for lane in LANES), strict=True))
        if any(takes(worker, name) for worker in workers):
            if name is not None:
                yield Finding("model", "ok", f"{name}: {sum(counts)} open jobs")
        elif sum(counts) and (name or workers):
            about = f"model {name}" if name else "jobs that name no model"
            advice = f"start a worker with VQA_SERVED_NAME={name}" if name else _UNNAMED
            yield Finding("model", "wrong", f"{about}: no worker is up that takes its {sum(counts)} open jobs", advice)
        elif name in models.served:
            yield Finding("model", "note", f"{name}: no worker is up; jobs that name it wait for one")
        elif name is None and workers:
            # other apps' jobs, which the ledger does not know yet, are among the messages
            messages = sum(redis.llen(queue) for queue in (*LANES, DEFAULT_QUEUE))
            said = f"no worker is up that takes jobs which name no model; messages on their lists: {messages}"
            yield Finding("model", "note", said, _UNNAMED)
    yield from _canaries(models)


def _canaries(models: Models) -> Iterator[Finding]:
    for name, canary in sorted(models.canaries.items()):
        said = f"{canary.percent:g} % of {name}'s jobs go to {canary.model}"
        if models.is_up(canary.model):
            yield Finding("canary", "ok", said)
        else:
            yield Finding("canary", "note", f"{said}, but for now they stay: no worker of it is up")
