"""How the lanes share slots and passes: the order in which they are served, and slots that bulk leaves to interactive.

The order alone is not enough: bulk jobs of equal length that start together end together, and until then no slot is
freed. An interactive job would wait for a whole bulk job, so bulk leaves a few slots free (`Reserve`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Self

from vqa.jobs.lane import LANES, Lane

if TYPE_CHECKING:
    from workers.engine.settings import EngineSettings

#: while both lanes wait, one turn in this many is bulk's
BULK_TURN = 20

#: seconds for which slots stay reserved after the last interactive job; later bulk may use every slot
LINGER_S = 600.0


class FairShare:
    """Serves lanes by priority, but a lane that was passed over BULK_TURN - 1 times in a row comes first."""

    def __init__(self, lanes: Sequence[str] = LANES) -> None:
        """Rank `lanes` by priority, the highest first; lanes not in it come last."""
        self._ranks = {lane: rank for rank, lane in enumerate(lanes)}
        #: turns given to lanes of higher priority while this lane waited
        self._passed: dict[str, int] = {}

    def order(self, waiting: Collection[str]) -> list[str]:
        """Sort the lanes that have jobs, the one to serve next first."""
        # of two lanes that are due, the one that waited longer: otherwise the lowest could wait for ever
        return sorted(waiting, key=lambda lane: (-self._passed[lane] if self.is_due(lane) else 0, self._rank(lane)))

    def is_due(self, lane: str) -> bool:
        """Whether the next turn is this lane's, whatever its priority."""
        return self._passed.get(lane, 0) >= BULK_TURN - 1

    @property
    def turns(self) -> int:
        """How many turns the lane to serve next may have in a row, before another one is due."""
        return max(1, BULK_TURN - 1 - max(self._passed.values(), default=0))

    def served(self, lane: str, waiting: Collection[str]) -> None:
        """Count a turn of `lane`; `waiting` are the lanes that still have jobs."""
        others = set(waiting) - {lane}
        self._passed = {other: self._passed.get(other, 0) + (self._rank(other) > self._rank(lane)) for other in others}

    def _rank(self, lane: str) -> int:
        return self._ranks.get(lane, len(self._ranks))


class Reserve:
    """How many slots bulk leaves free for the next interactive job."""

    def __init__(self, places: int = 0, always: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """Reserve `places` slots; with `always=False` only for LINGER_S after an interactive job."""
        self._places = places
        self._always = always
        self._clock = clock
        self._until = float("-inf")

    @classmethod
    def from_settings(cls, settings: EngineSettings, slots: int) -> Self:
        """Make the reserve of a worker with `slots` slots. Raises SettingsError."""
        return cls(settings.reserve_of(slots), always=settings.reserved_slots is not None)

    def saw(self, lane: Lane) -> None:
        if lane == "interactive":
            self._until = self._clock() + LINGER_S

    @property
    def places(self) -> int:
        """How many slots to keep free now."""
        return self._places if self._always or self._clock() < self._until else 0

    def admits_bulk(self, slots: int, taken: int, bulk: int, due: bool) -> bool:
        """Whether bulk may take another of `slots` slots, of which `taken` are in use, `bulk` of them by bulk jobs.

        Bulk leaves the reserve free. When it is `due`, only its own slots count against its share: otherwise a flood
        of interactive jobs would starve it. Its share is at least one slot.
        """
        share = self.share(slots)
        return bulk < share and (due or taken < share) and taken < slots

    def share(self, slots: int) -> int:
        """Return how many of `slots` slots bulk may fill."""
        return max(1, slots - self.places)
