"""The numbers of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Times are in seconds. Leases are short so that a run sees many of them expire."""

    seed: int
    #: the least number of jobs and of faults
    jobs: int
    faults: int
    #: time limit of the whole run
    minutes: float
    #: one fault of each main kind instead of random ones
    short: bool = False
    workers: int = 3
    #: of each worker
    slots: tuple[int, ...] = (8, 12, 16)
    producers: int = 2
    #: jobs per second of all producers together
    rate: float = 30.0
    #: `all` kinds of jobs, or only `tiny` ones of 2 ms
    mix: str = "all"
    #: names of the faults to draw from; empty for all
    only: tuple[str, ...] = ()
    concurrent_faults: int = 2
    lease_s: float = 3.0
    hang_s: float = 2.5
    drain_s: float = 8.0
    redis_timeout_s: float = 3.0

    @property
    def bound_s(self) -> float:
        """Limit from the kill of a worker until its jobs are back; 15 s are promised with a lease of 9 s."""
        return self.lease_s + 6.0

    @classmethod
    def full_run(cls, seed: int, jobs: int | None, faults: int | None, minutes: float | None) -> Plan:
        """Plan a run of at most an hour."""
        return cls(seed, jobs or 20_000, faults or 200, minutes or 60.0)

    @classmethod
    def short_run(cls, seed: int, jobs: int | None, faults: int | None, minutes: float | None) -> Plan:
        """Plan a run of at most three minutes, for every change."""
        return cls(seed, jobs or 800, faults or 15, minutes or 3.0, short=True, rate=20.0)
