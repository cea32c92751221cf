"""What the ledger should know, written differently than its script, for `test_ledger_model.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: jobs of a tenant in flight
MOST = 2


@dataclass
class Model:
    """What should be known of one job."""

    state: str = "unknown"
    #: its place in its state's set
    score: int = 0
    accepted: int = 0
    deadline: int = 0
    attempt: int = 0
    lost: int = 0
    alone: bool = False
    token: str | None = None
    retried: str | None = None
    history: int = 0
    tenant: str = ""
    outcome: bytes | None = None
    #: attempts that were ever charged as lost
    tokens: list[str] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return self.in_flight or self.state == "waiting"

    @property
    def in_flight(self) -> bool:
        return self.state in {"queued", "leased", "delayed"}


class Turns:
    """Which bulk jobs wait, and whose turn it is: what `fair_share.lua` does, written differently."""

    def __init__(self) -> None:
        #: by tenant, in the order in which they came
        self.waiting: dict[str, list[str]] = {}
        #: tenants with a turn, the next one first
        self.round: list[str] = []
        #: tenants with as many in flight as they may
        self.held: set[str] = set()
        #: slots of living workers, as they were counted last
        self.slots = 0

    @property
    def target(self) -> int:
        return max(2, 2 * self.slots)

    def must_wait(self, tenant: str, jobs: Mapping[str, Model]) -> bool:
        full = queued(jobs) >= self.target
        return full or bool(self.round) or tenant in self.held or flight(jobs, tenant) >= MOST

    def join(self, id: str, tenant: str, jobs: Mapping[str, Model]) -> None:
        if flight(jobs, tenant) >= MOST:
            self.round = [other for other in self.round if other != tenant]
            self.held.add(tenant)
        elif tenant not in self.waiting:
            self.round.append(tenant)
        self.waiting.setdefault(tenant, []).append(id)

    def leave(self, id: str, tenant: str) -> None:
        self.waiting[tenant].remove(id)
        if not self.waiting[tenant]:
            del self.waiting[tenant]
            self.held.discard(tenant)
            self.round = [other for other in self.round if other != tenant]

    def landed(self, tenant: str) -> None:
        if tenant in self.held:
            self.held.remove(tenant)
            self.round.append(tenant)

    def promote(self, jobs: dict[str, Model], now: int) -> list[str]:
        promoted: list[str] = []
        while self.round and queued(jobs) < self.target:
            tenant = self.round.pop(0)
            if flight(jobs, tenant) >= MOST:
                self.held.add(tenant)
                continue
            # those of one millisecond are in the order of their ids
            id = min(self.waiting[tenant], key=lambda id: (jobs[id].score, id))
            self.waiting[tenant].remove(id)
            if self.waiting[tenant]:
                self.round.append(tenant)
            else:
                del self.waiting[tenant]
            jobs[id].state, jobs[id].score = "queued", now
            promoted.append(id)
        return promoted

    def refill(self, jobs: dict[str, Model], now: int) -> list[str]:
        return self.promote(jobs, now) if 2 * queued(jobs) < self.target else []


def queued(jobs: Mapping[str, Model]) -> int:
    return sum(job.state == "queued" for job in jobs.values())


def flight(jobs: Mapping[str, Model], tenant: str) -> int:
    return sum(job.in_flight and job.tenant == tenant for job in jobs.values())
