"""What `vqa top` shows at one moment. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from producer.prediction import Prediction
from producer.prediction.rate import Closed
from vqa.jobs.lane import Lane
from vqa.ledger.batch_state import BatchState
from vqa.ledger.records import State, WorkerInfo
from vqa.routing import lane_of, model_of


@dataclass(frozen=True, slots=True)
class QueueView:
    """A lane, or one model's lane."""

    name: str
    jobs: Mapping[State, int]
    #: seconds that the oldest job which no worker holds has waited; None if there is none
    oldest_s: float | None
    #: jobs that workers closed, with an answer or an error
    closed: Closed

    @property
    def lane(self) -> Lane:
        return lane_of(self.name)

    @property
    def model(self) -> str | None:
        return model_of(self.name)

    @property
    def is_idle(self) -> bool:
        return not any(self.jobs.values()) and not any(self.closed.counts)


@dataclass(frozen=True, slots=True)
class View:
    """One frame."""

    #: seconds on Redis's clock
    now_s: float
    workers: Sequence[WorkerInfo] = ()
    queues: Sequence[QueueView] = ()
    #: newest first, those that are over last
    batches: Sequence[BatchState] = ()
    predictions: Mapping[str, Prediction] = field(default_factory=dict)
    #: jobs that ended with an error in the last minutes, by code
    errors: Mapping[str, int] = field(default_factory=dict)
    #: None if this user may not read it, as `inbox` and `memory`
    dead: int | None = None
    inbox: int | None = None
    #: share of maxmemory in use; None without a limit, too
    memory: float | None = None

    def rate(self, seconds: float) -> float:
        """Return the jobs per second of all queues that workers closed in about the last `seconds`."""
        return sum(queue.closed.mean(seconds) for queue in self.queues)
