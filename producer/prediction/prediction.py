"""The prediction of one batch's end, from figures that were read before. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from producer.prediction.rate import Closed, Rate
from producer.prediction.share import Backlog, jobs_until
from vqa.ledger.batch_state import BatchState

#: why an end is not known: no worker is up, none closed a job of the queue in the last minutes, or nobody has said how
#: many rows will follow
Unknown = Literal["no_worker", "no_answers", "rows_unknown"]

#: seconds of interactive jobs by which it is told how long those that wait take
_INTERACTIVE_S = 60.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """When a batch ends, at the rate of the last minutes. Times are in ms on Redis's clock."""

    made: int
    #: None if it is not known; then `unknown` says why
    end: int | None = None
    #: the end at the fastest and at the slowest rate of the last minutes; None for an end that is not bounded
    earliest: int | None = None
    latest: int | None = None
    unknown: Unknown | None = None
    #: when the batch gives up its open rows; 0 for never
    expires: int = 0
    #: jobs per second of the batch's queue; None if unknown
    rate: float | None = None
    #: jobs that end before the batch's last one, its own included, as far as they are there by now
    ahead: int = 0

    @property
    def in_time(self) -> bool | None:
        """Whether the batch ends before it expires; None if that is not known, or it never expires."""
        return None if self.end is None or not self.expires else self.end <= self.expires

    @property
    def is_late(self) -> bool:
        """Whether the batch expires before it ends, at the fastest rate of the last minutes, too."""
        return self.in_time is False and (self.earliest is None or self.earliest > self.expires)


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """What waits on a queue and how fast it is emptied."""

    closed: Closed
    queued: int = 0
    leased: int = 0
    delayed: int = 0
    #: waiting jobs by tenant; '' for none
    tenants: Mapping[str, Backlog] = field(default_factory=dict)
    #: how many waiting tenants there are for each of these
    tenants_per_known: float = 1.0
    #: when the oldest waiting job was accepted, in ms
    oldest: int | None = None
    #: of a bulk queue: what its workers answer first
    interactive: QueueFigures | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a batch's last job stands, of those that are accepted."""

    #: waiting jobs of its tenant up to it; 0 if all of the batch's are in flight
    waiting: int = 0
    #: queued jobs up to it; 0 if none of them is the batch's
    queued: int = 0


def predicted(state: BatchState, queue: QueueFigures, place: Place, workers: int, now: int) -> Prediction:
    """Return the prediction for a batch that is not over; `workers` is how many are up, `now` Redis's time in ms."""
    ahead = _ahead(state, queue, place)
    unknown: Unknown | None = None
    rate = None
    if not state.has_all_rows and not state.expected:
        unknown = "rows_unknown"
    elif not workers:
        unknown = "no_worker"
    elif (rate := _rate(state, queue)) is None:
        unknown = "no_answers"
    if unknown or rate is None:
        return Prediction(now, unknown=unknown, expires=state.expires, ahead=round(ahead))
    before_s = _interactive_s(queue, rate.jobs_s)
    # all that is left is with workers, and may end at once
    leased_only = ahead <= queue.leased
    # by Little's law, how long a job is with its worker: the last one may be longer than most
    service_s = queue.leased / rate.jobs_s
    latest_s = before_s + ahead / rate.slow + service_s if rate.slow else None
    return Prediction(
        made=now,
        end=_at(now, before_s + ahead / rate.jobs_s),
        earliest=None if rate.fast is None else _at(now, 0 if leased_only else ahead / rate.fast),
        latest=None if latest_s is None else _at(now, latest_s),
        expires=state.expires,
        rate=rate.jobs_s,
        ahead=round(ahead),
    )


def _at(now: int, seconds: float) -> int:
    # an end in a million years is as good as any
    return now + round(min(seconds, 1e12) * 1000)


def _ahead(state: BatchState, queue: QueueFigures, place: Place) -> float:
    """Return how many jobs of the queue end until the batch's last one has."""
    to_come = max(0, state.rows - state.done - state.open)
    own = place.waiting + to_come
    if not own and not place.queued:
        # of the jobs that workers have the last of some is as far on as there are many
        return queue.leased * state.open / (state.open + 1)
    tenant = queue.tenants.get(state.tenant, Backlog(0))
    others = [each for name, each in queue.tenants.items() if name != state.tenant]
    in_flight = queue.leased + queue.delayed + (queue.queued if own else place.queued)
    return in_flight + jobs_until(own, tenant.limited_to, others, queue.tenants_per_known)


def _rate(state: BatchState, queue: QueueFigures) -> Rate | None:
    began = state.times.get("in_progress", state.created)
    # since then the queue was never empty
    busy = min(began, queue.oldest or began) / 1000
    closed, leased = queue.closed, queue.leased
    return closed.rate_since(busy, leased) or closed.rate_before(busy) or closed.first_rate(busy, leased)


def _interactive_s(queue: QueueFigures, rate: float) -> float:
    """Return how long interactive jobs that wait now hold the queue up."""
    first = queue.interactive
    return first.queued / (rate + first.closed.mean(_INTERACTIVE_S)) if first else 0.0
