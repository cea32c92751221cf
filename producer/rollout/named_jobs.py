"""Jobs that name the model that a rollout replaces: if no worker serves that name any more, nobody answers them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from redis import Redis

from producer.rollout.cards import Card
from vqa.jobs.lane import LANES
from vqa.ledger.models import ModelRegistry
from vqa.ledger.records import WorkerInfo
from vqa.rollout import Target
from vqa.routing import queue_name
from vqa.settings import QueueSettings

#: of what `ModelRegistry.depths` returns for a queue: jobs that wait, are queued, run or are delayed
_COUNTS = 4


def replaced_names(listed: Sequence[WorkerInfo], cards: Sequence[Card], target: Target) -> list[str]:
    """Return the models' own names that nobody serves after these cards restart."""
    chosen = {card.name for card in cards}
    staying = {name for worker in listed if worker.name not in chosen for name in _names(worker)}
    models = {card.before.target.model for card in cards}
    served = {name for worker in listed if worker.name in chosen for name in _names(worker)}
    return sorted((served & models) - staying - {target.model})


def open_jobs(redis: Redis, settings: QueueSettings, names: Collection[str]) -> dict[str, int]:
    """Return how many open jobs name each of these models; names that a worker was given are left out, as they stay.

    Raises redis.exceptions.RedisError.
    """
    registry = ModelRegistry(redis, settings.model_keep_s, settings.lease_s)
    served = registry.read().served if names else {}
    own = [name for name in names if name not in served or not served[name].declared]
    depths = registry.depths([queue_name(lane, name) for name in own for lane in LANES])
    return {name: sum(sum(depths[queue_name(lane, name)][:_COUNTS]) for lane in LANES) for name in own}


def _names(worker: WorkerInfo) -> list[str]:
    names = worker.about.get("models")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
