"""A worker: it pops jobs while it holds fewer than it may, and its engine answers them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from bench.simulation.events import Events
from bench.simulation.jobs import Work
from bench.simulation.places import OnEnd
from bench.simulation.queue import Queue
from bench.simulation.slots import Slots
from vqa.jobs.lane import Lane
from workers.engine.fair_share import FairShare, Reserve
from workers.engine.settings import EngineSettings
from workers.process.assembly import look_ahead


class Engine(Protocol):
    """What answers jobs."""

    def submit(self, work: Work, on_end: OnEnd) -> None: ...


MakeEngine = Callable[[Events, int, Reserve], Engine]


@dataclass(frozen=True)
class Setup:
    """The workers. Times are in seconds."""

    workers: int
    slots: int
    engine: MakeEngine = Slots
    #: from a pop to the engine
    hop_s: float = 0.0
    #: between two pops of a worker
    pop_s: float = 0.0
    #: slots that bulk leaves free; None as the workers choose
    reserved: int | None = None
    #: jobs that a worker holds; None as the workers choose
    held: int | None = None


class Worker:
    """Pops while it holds fewer jobs than it may, interactive first."""

    def __init__(self, events: Events, queue: Queue, setup: Setup, serve: Callable[[Worker], None]) -> None:
        places = EngineSettings().reserve_of(setup.slots) if setup.reserved is None else setup.reserved
        self._most = look_ahead(setup.slots) if setup.held is None else setup.held
        self._events, self._queue, self._setup, self._serve = events, queue, setup, serve
        self._reserve = Reserve(places, setup.reserved is not None, lambda: events.now)
        self._engine = setup.engine(events, setup.slots, self._reserve)
        self._fair_share = FairShare()
        self._held: dict[Lane, int] = {"interactive": 0, "bulk": 0}
        self._popping = False
        #: since when it waits for a job
        self.blocked_s = 0.0

    @property
    def is_full(self) -> bool:
        return self._popping or sum(self._held.values()) >= self._most

    def lane(self) -> Lane | None:
        """Return the lane that it would pop now."""
        if self.is_full:
            return None
        taken = sum(self._held.values())
        due = self._fair_share.is_due("bulk")
        for lane in self._fair_share.order(self._queue.lanes()):
            if lane == "interactive" or self._reserve.admits_bulk(self._most, taken, self._held["bulk"], due):
                return "interactive" if lane == "interactive" else "bulk"
        return None

    def pop(self, lane: Lane) -> None:
        work = self._queue.pop(lane)
        self._fair_share.served(lane, self._queue.lanes())
        self._reserve.saw(lane)
        self._held[lane] += 1
        if self._setup.pop_s:
            self._popping = True
            self._events.after(self._setup.pop_s, self._popped)
        if self._setup.hop_s:
            self._events.after(self._setup.hop_s, partial(self._engine.submit, work, self._ended))
        else:
            self._engine.submit(work, self._ended)

    def _popped(self) -> None:
        self._popping = False
        self._serve(self)

    def _ended(self, work: Work) -> None:
        self._held[work.lane] -= 1
        self._serve(self)
