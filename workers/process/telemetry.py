"""Metrics, traces and log fields of a worker's attempts. What an extra brings is imported only where it is used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vqa.log.format import is_json
from vqa.metrics.server import ListenAddress, require_package
from vqa.tracing.active import start_tracing
from vqa.tracing.settings import exporter
from workers.cards import Cards
from workers.jobs.attempt import Attempts
from workers.jobs.log_context import logging_about_job

if TYPE_CHECKING:
    from workers.metrics.worker import WorkerMetrics

log = logging.getLogger(__name__)


class Telemetry:
    """What of a worker is counted, traced and logged, by its settings."""

    def __init__(self, address: ListenAddress | None) -> None:
        """`address` is that of VQA_METRICS_ADDRESS. Raises SettingsError, also for OTEL_* variables."""
        if address is not None:
            require_package("VQA_METRICS_ADDRESS")
        exporter()
        self._address = address
        self._metrics: WorkerMetrics | None = None

    def observed(
        self,
        attempts: Attempts,
        name: str,
        slots: int,
        cards: Cards,
        filtered: Callable[[], Mapping[str, Any]],
    ) -> Attempts:
        """Return the attempts of the worker `name`, counted and traced; `filtered` are the word filter's figures."""
        if self._address is not None:
            from workers.metrics.worker import WorkerMetrics

            self._metrics = WorkerMetrics(self._address, cards)
            attempts = self._metrics.metered(attempts, slots, filtered)
        if is_json():
            attempts = replace(attempts, around=[*attempts.around, logging_about_job])
        tracing = start_tracing("vqa-worker", name)
        if tracing is None:
            return attempts
        from workers.tracing.worker import traced

        return traced(attempts, tracing)

    def start(self) -> None:
        """Show the metrics, if they are."""
        if self._metrics is not None:
            log.info("metrics: http://%s/metrics", self._metrics.start())

    def stop(self) -> None:
        if self._metrics is not None:
            self._metrics.stop()
