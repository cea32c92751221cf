"""How much is done to whom: the numbers of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Times in seconds. Leases are short so that a run sees many of them end."""

    seed: int
    #: at least so many jobs and faults
    jobs: int
    faults: int
    #: the whole of it takes no longer, or has failed
    minutes: float
    #: one fault of each main kind instead of draws from all of them
    short: bool = False
    workers: int = 3
    #: concurrent jobs, worker by worker
    slots: tuple[int, ...] = (8, 12, 16)
    producers: int = 2
    #: jobs a second, from all producers together
    rate: float = 30.0
    #: `all` kinds of jobs, or `tiny` ones of 2 ms alone
    mix: str = "all"
    #: draw from the faults of these names; from all where empty
    only: tuple[str, ...] = ()
    #: faults that may be under way at once
    abreast: int = 2
    lease_s: float = 3.0
    hang_s: float = 2.5
    drain_s: float = 8.0
    redis_timeout_s: float = 3.0

    @property
    def bound_s(self) -> float:
        """From the kill of a worker until its jobs are back: 15 s are promised at a lease of 9 s."""
        return self.lease_s + 6.0

    @classmethod
    def full(cls, seed: int, jobs: int | None, faults: int | None, minutes: float | None) -> Plan:
        """An hour at most."""
        return cls(seed, jobs or 20_000, faults or 200, minutes or 60.0)

    @classmethod
    def brief(cls, seed: int, jobs: int | None, faults: int | None, minutes: float | None) -> Plan:
        """For every change: three minutes at most."""
        return cls(seed, jobs or 800, faults or 10, minutes or 3.0, short=True, rate=20.0)
