"""The metrics of a worker process, from its setting to the server that shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector

from vqa.metrics.server import ListenAddress, MetricsServer
from workers.cards import Cards
from workers.engine.stats import HasStats
from workers.jobs.attempt import Attempts
from workers.metrics.attempts import AttemptCounter, MeteredAttempts
from workers.metrics.cards import CardFigures
from workers.metrics.collector import WorkerCollector
from workers.metrics.engine import CountedEngine
from workers.metrics.jobs import JobMetrics


class WorkerMetrics:
    """Counts what a worker does, and serves it from `start` to `stop`."""

    def __init__(self, address: ListenAddress, cards: Cards) -> None:
        """Serve at the address, on a port as much higher as the number of the first card says."""
        self._address = replace(address, port=address.port + (cards[0] if cards else 0) if address.port else 0)
        self._cards = CardFigures(cards)
        self._registry = CollectorRegistry()
        # memory, CPU time and open files of the process
        ProcessCollector(registry=self._registry)
        self._server: MetricsServer | None = None

    def metered(self, attempts: Attempts, slots: int, filtered: Callable[[], Mapping[str, Any]]) -> Attempts:
        """Return the same attempts, counted; `filtered` are the word filter's figures."""
        answering, jobs, counter = attempts.answering, JobMetrics(), AttemptCounter()
        engine = CountedEngine(answering.engine)
        counting = answering.engine if isinstance(answering.engine, HasStats) else None
        read = WorkerCollector(slots, attempts.leases, answering.media, engine, counting, filtered, self._cards)
        for collector in (jobs, counter, read):
            self._registry.register(collector)
        return MeteredAttempts.of(
            attempts,
            counter,
            answering=replace(answering, engine=engine, on_show=jobs.measuring(answering.on_show)),
            middleware=[jobs, *attempts.middleware],
        )

    def start(self) -> ListenAddress:
        """Serve; return where. Raises NotReady if the address is taken."""
        self._server = MetricsServer(self._address, self._registry, "VQA_METRICS_ADDRESS")
        return self._server.address

    def stop(self) -> None:
        """Stop serving, if it has started."""
        if self._server is not None:
            self._server.stop()
