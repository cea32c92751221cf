"""The queue's figures as metrics, read whenever Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from producer.metrics.reading import Place, QueueFigures, read_figures
from vqa.ledger.records import State
from vqa.metrics import declared
from vqa.metrics.declared import Metric
from vqa.metrics.families import Family, build_info, family
from vqa.redis.connection import REDIS_ERRORS, connect
from vqa.redis.outage import RedisOutage
from vqa.settings import QueueSettings

#: seconds for a call to Redis: Prometheus gives up a scrape after ten
_TIMEOUT_S = 2.0


class QueueCollector(Collector):
    """A scrape opens a connection of its own, so that none is idle between two, or stale after a failover."""

    def __init__(self, settings: QueueSettings) -> None:
        timeout_s = min(settings.redis_timeout_s, _TIMEOUT_S)
        self._settings = settings.model_copy(update={"redis_timeout_s": timeout_s})
        self._outage = RedisOutage(settings)

    def collect(self) -> Iterator[Family]:
        """Yield all metrics; without Redis, only that it is away."""
        yield build_info()
        try:
            with connect(self._settings, retry_s=0) as redis:
                found = read_figures(redis, self._settings)
        except REDIS_ERRORS as error:
            self._outage.failed(error)
            yield family(declared.UP, 0)
            return
        self._outage.answered()
        yield family(declared.UP, 1)
        yield from _families(found)


def queue_registry(settings: QueueSettings) -> CollectorRegistry:
    """Return a registry with the queue's metrics alone."""
    registry = CollectorRegistry()
    registry.register(QueueCollector(settings))
    return registry


def _families(found: QueueFigures) -> Iterator[Family]:
    yield _by_place(declared.QUEUE_JOBS, found.jobs)
    yield _by_place(declared.QUEUE_OLDEST_S, found.oldest_s, ("waiting", "queued"))
    yield _by_place(declared.QUEUE_OVERDUE_S, found.oldest_s, ("delayed", "leased"))
    if found.ready is not None and found.vanished is not None:
        workers = family(declared.WORKERS)
        workers.add_metric(["ready"], len(found.ready))
        workers.add_metric(["vanished"], found.vanished)
        yield workers
        yield family(declared.QUEUE_SLOTS, sum(found.ready))
    if found.dead_codes is not None:
        codes = family(declared.DEAD_NEWEST)
        for code, count in found.dead_codes.items():
            codes.add_metric([code], count)
        yield codes
    for metric, value in (
        (declared.DEAD_LETTERS, found.dead),
        (declared.INBOX, found.inbox),
        (declared.REDIS_MEMORY, found.memory),
        (declared.REDIS_MEMORY_LIMIT, found.memory_limit),
    ):
        if value is not None:
            yield family(metric, value)


def _by_place(metric: Metric, values: Mapping[Place, float], states: tuple[State, ...] | None = None) -> Family:
    by_place = family(metric)
    for (lane, model, state), value in values.items():
        if states is None or state in states:
            # what is due later, or was before Redis's clock was set back, is not late
            by_place.add_metric([lane, model, state], max(0.0, value))
    return by_place
