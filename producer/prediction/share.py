"""How many jobs of a queue are closed until a tenant's are: waiting tenants take turns. No I/O."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

#: rounds in which the numbers settle, or are close enough
_ROUNDS = 60


@dataclass(frozen=True, slots=True)
class Backlog:
    """A tenant's waiting jobs."""

    waiting: int
    #: 0, or the share of the queue's jobs that a tenant has which is at its limit of jobs in flight (VQA_TENANT_MOST)
    limited_to: float = 0.0


def jobs_until(own: float, limited_to: float, others: Collection[Backlog], times: float = 1.0) -> float:
    """Return how many waiting jobs of a queue are closed until the first `own` of a tenant are, its own included.

    `limited_to` is the tenant's own limit. The others, whose turns come as often, have as many closed meanwhile, or
    all that they have; each stands for `times` of its like.
    """
    if limited_to:
        return own / limited_to
    free = own + times * sum(min(own, each.waiting) for each in others if not each.limited_to)
    limited = [each for each in others if each.limited_to]
    jobs = free
    # a fixed point: those with a limit have their shares of all jobs, the others' turns share the rest
    for _ in range(_ROUNDS if limited else 0):
        jobs = free + times * sum(min(each.waiting, each.limited_to * jobs) for each in limited)
    return jobs
