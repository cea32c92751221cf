"""An engine whose jobs take their time in a slot, whatever else runs: the echo engine, and a queue's textbook model."""

from __future__ import annotations

from bench.simulation.events import Events
from bench.simulation.jobs import Work
from bench.simulation.places import OnEnd, Places
from workers.engine.fair_share import Reserve


class Slots:
    """Runs each job for its `service_s`."""

    def __init__(self, events: Events, slots: int, reserve: Reserve) -> None:
        self._events = events
        self._places = Places(slots, reserve)

    def submit(self, work: Work, on_end: OnEnd) -> None:
        self._places.add(work, on_end)
        self._fill()

    def _fill(self) -> None:
        while admitted := self._places.admit(self._events.now):
            self._begin(*admitted)

    def _begin(self, work: Work, on_end: OnEnd) -> None:
        def end() -> None:
            self._places.leave(work, self._events.now)
            self._fill()
            on_end(work)

        self._events.after(work.service_s, end)
