"""What is read at scrape time from the parts of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.registry import Collector

from vqa.jobs.lane import LANES
from vqa.metrics import declared
from vqa.metrics.families import Family, build_info, family
from workers.engine.stats import HasStats
from workers.jobs.leases import Leases
from workers.media.pool import DecoderPool
from workers.metrics.cards import CardFigures
from workers.metrics.engine import CountedEngine


@dataclass(frozen=True)
class WorkerCollector(Collector):
    """Costs jobs nothing."""

    slots: int
    leases: Leases
    media: DecoderPool
    engine: CountedEngine
    #: the engine itself if it counts
    counting: HasStats | None
    #: of the word filter
    filtered: Callable[[], Mapping[str, Any]]
    cards: CardFigures

    def collect(self) -> Iterator[Family]:
        yield build_info()
        yield family(declared.SLOTS, self.slots)
        yield family(declared.SLOTS_USED, min(self.slots, self.engine.prompts))
        yield family(declared.JOBS_HELD, len(self.leases))
        yield self._oldest()
        yield family(declared.LOST_LEASES, self.leases.lost)
        yield family(declared.RENEWALS, self.leases.renewals)
        yield family(declared.DECODERS, self.media.processes)
        yield family(declared.DECODERS_USED, self.media.busy)
        yield self._filtered()
        yield from self._engine()
        yield from self.cards.collect()

    def _oldest(self) -> Family:
        found, held = family(declared.HELD_OLDEST_S), self.leases.held()
        for lane in LANES:
            found.add_metric([lane], max((lease.age_s for lease in held if lease.header.lane == lane), default=0.0))
        return found

    def _filtered(self) -> Family:
        found = family(declared.FILTERED)
        for category, count in self.filtered().get("filtered", {}).items():
            found.add_metric([category], count)
        return found

    def _engine(self) -> Iterator[Family]:
        stats = self.counting.stats() if self.counting is not None else None
        # zeros of an engine in a process of its own that counts nothing would say that the card is idle
        if stats is not None and stats.blocks:
            for name, metric in declared.ENGINE.items():
                yield family(metric, getattr(stats, name))
