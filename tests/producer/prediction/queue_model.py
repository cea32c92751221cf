"""A queue with tenants, batches and slots, in simulated time, that tells what the ledger would."""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from producer.prediction.prediction import Place, Prediction, QueueFigures, predicted
from producer.prediction.rate import SLICE_S, SLICES, Closed
from producer.prediction.share import Backlog
from vqa.ledger.batch_state import BatchState

#: as in vqa/ledger/lua/fair_share.lua
LEAST_QUEUED = 64
#: the clock begins somewhere
START_S = 1_000_003.0


@dataclass
class Batch:
    id: str
    tenant: str
    rows: int
    submitted_s: float = START_S
    open: int = 0
    done: int = 0
    ended_s: float = 0.0

    def state(self) -> BatchState:
        times = {"in_progress": int(self.submitted_s * 1000)}
        counts = {"total": self.rows, "completed": self.done, "open": self.open}
        began = int(self.submitted_s * 1000)
        return BatchState(
            self.id, "in_progress", began, "bulk", self.tenant, sealed=True, sealed_at=began, times=times, **counts
        )


@dataclass
class QueueModel:
    """Slots take queued jobs in order; waiting jobs are queued by tenant in turn, as the ledger promotes them."""

    slots: int
    service_s: Callable[[random.Random], float]
    seed: int = 0
    #: batches by id
    batches: dict[str, Batch] = field(default_factory=dict)
    now_s: float = START_S

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.waiting: dict[str, deque[tuple[float, str]]] = {}
        self.queued: deque[tuple[float, str]] = deque()
        self.running: list[tuple[float, str]] = []
        self.closed: Counter[int] = Counter()

    def submit(self, batch: Batch) -> None:
        batch.submitted_s, batch.open = self.now_s, batch.rows
        self.batches[batch.id] = batch
        self.waiting.setdefault(batch.tenant, deque()).extend([(self.now_s, batch.id)] * batch.rows)
        self._fill()

    def step(self) -> None:
        """Close the next job."""
        self.now_s, id = heapq.heappop(self.running)
        self.closed[int(self.now_s // SLICE_S)] += 1
        batch = self.batches[id]
        batch.open, batch.done, batch.ended_s = batch.open - 1, batch.done + 1, self.now_s
        self._fill()

    def _fill(self) -> None:
        while self.waiting and len(self.queued) < max(LEAST_QUEUED, 2 * self.slots):
            tenant = next(iter(self.waiting))
            jobs = self.waiting.pop(tenant)
            self.queued.append((self.now_s, jobs.popleft()[1]))
            if jobs:
                # its next turn comes after the others'
                self.waiting[tenant] = jobs
        while self.queued and len(self.running) < self.slots:
            _, id = self.queued.popleft()
            heapq.heappush(self.running, (self.now_s + self.service_s(self.random), id))

    def prediction(self, id: str) -> Prediction:
        batch = self.batches[id]
        newest = int(self.now_s // SLICE_S)
        queue = QueueFigures(
            closed=Closed([self.closed[newest - age] for age in range(SLICES, -1, -1)], self.now_s),
            queued=len(self.queued),
            leased=len(self.running),
            tenants={tenant: Backlog(len(jobs)) for tenant, jobs in self.waiting.items()},
            oldest=min((int(jobs[0][0] * 1000) for jobs in self.waiting.values()), default=None),
        )
        place = Place(
            sum(at <= batch.submitted_s for at, _ in self.waiting.get(batch.tenant, ())),
            sum(id == batch.id for _, id in self.queued) and 1 + self._last_queued(id),
        )
        return predicted(batch.state(), queue, place, 1, int(self.now_s * 1000))

    def _last_queued(self, id: str) -> int:
        return max(index for index, (_, each) in enumerate(self.queued) if each == id)
