"""Cards that one Redis feeds, and what it holds for them, by what was measured of a job, a worker and a lease."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: seconds between two renewals of a worker's leases, a third of VQA_LEASE_S
_RENEWED_S = 3.0


@dataclass(frozen=True)
class Costs:
    """Of one Redis. The defaults were measured on 2026-11-29 (docs/scaling.md)."""

    #: us of the main thread for a job, from the submission to the answer that is read
    job_us: float = 620.0
    #: us a second for a worker that does nothing, and for the sweep of them all
    worker_us: float = 1640.0
    sweep_us: float = 1600.0
    #: us for the renewal of a lease
    lease_us: float = 21.0
    #: bytes of a finished job
    outcome_bytes: float = 1190.0
    #: bytes to and from Redis of a job, an image's own bytes apart
    job_bytes: float = 10_000.0
    #: bytes of an image; us to store it and to read it, and if only the list of images is in Redis
    image_bytes: float = 218_000.0
    image_us: float = 717.0
    listed_us: float = 237.0
    #: connections of a worker
    connections: float = 18.0


@dataclass(frozen=True)
class Load:
    """Of each card."""

    jobs: float = 41.0
    #: slots and the jobs beside them whose images are decoded meanwhile
    leases: int = 320
    result_ttl_s: float = 86_400.0
    #: of an image, from its submission until its end: the job's timeout and VQA_IMAGES_KEEP_S
    image_s: float = 3660.0
    #: whether the bytes of the images, one a job, are in Redis
    images: bool = False


@dataclass(frozen=True)
class Plan:
    """What a number of cards asks of Redis."""

    cards: int
    jobs: float
    #: of one core, 1.0 is all of it
    cores: float
    connections: float
    #: a second, to and from
    network_bytes: float
    outcome_bytes: float
    image_bytes: float

    @classmethod
    def for_cards(cls, cards: int, load: Load, costs: Costs) -> Plan:
        jobs = cards * load.jobs
        job_us = costs.job_us + (costs.image_us if load.images else costs.listed_us)
        card_us = costs.worker_us + load.leases * costs.lease_us / _RENEWED_S
        return cls(
            cards,
            jobs,
            (jobs * job_us + cards * card_us + costs.sweep_us) / 1e6,
            cards * costs.connections,
            jobs * (costs.job_bytes + (2 * costs.image_bytes if load.images else 0)),
            jobs * load.result_ttl_s * costs.outcome_bytes,
            jobs * load.image_s * costs.image_bytes if load.images else 0.0,
        )

    def servers(self, share: float) -> int:
        """Return how many Redis servers it takes if each may use that share of a core."""
        return math.ceil(self.cores / share)

    def __str__(self) -> str:
        return (
            f"{self.cards:,} cards, {self.jobs:,.0f} jobs/s: {self.cores:.2f} cores of Redis, "
            f"{self.connections:,.0f} connections, {self.network_bytes / 1e6:,.1f} MB/s, outcomes "
            f"{self.outcome_bytes / 1e9:,.1f} GB, images {self.image_bytes / 1e9:,.1f} GB"
        )


def most_cards(share: float, load: Load, costs: Costs) -> int:
    """Return how many cards one Redis feeds with that share of a core."""
    one, two = (Plan.for_cards(cards, load, costs).cores for cards in (1, 2))
    return max(0, math.floor((share - one) / (two - one)) + 1)


def plans(costs: Costs, fleets: Sequence[int] = (1, 8, 64, 1000), share: float = 0.7) -> Iterator[str]:
    """Yield lines, without and with images in Redis."""
    for images in (False, True):
        load = Load(images=images)
        yield "with the images' bytes in Redis:" if images else "with images in a folder or bucket:"
        for cards in fleets:
            plan = Plan.for_cards(cards, load, costs)
            yield f"  {plan}; Redis servers at {share:.0%} of a core: {plan.servers(share)}"
        for part in (share, 1.0):
            yield f"  one Redis at {part:.0%} of a core: {most_cards(part, load, costs)} cards"
