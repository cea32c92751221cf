"""Room that bulk leaves for interactive, so that an interactive job does not wait for a whole bulk job to end.

Bulk jobs of one length that begin together end together, and in between no slot comes free: to be first at the next
one is not enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from vqa.job import Lane

if TYPE_CHECKING:
    from workers.engine.settings import EngineSettings

#: one place in so many goes to bulk while both lanes wait
BULK_TURN = 20

#: the reserve holds for so long after an interactive job: where none come, every slot is bulk's
LINGER_S = 600.0


class Reserve:
    """How many places are to stay free for the next interactive job."""

    def __init__(self, places: int = 0, always: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """`always`: also while no interactive job comes."""
        self._places = places
        self._always = always
        self._clock = clock
        self._until = float("-inf")

    @classmethod
    def of(cls, settings: EngineSettings, slots: int) -> Self:
        """For a worker of so many slots. Raises SettingsError."""
        return cls(settings.reserve_of(slots), always=settings.reserved_slots is not None)

    def saw(self, lane: Lane) -> None:
        """A job of that lane has come."""
        if lane == "interactive":
            self._until = self._clock() + LINGER_S

    @property
    def places(self) -> int:
        """How many are to stay free now."""
        return self._places if self._always or self._clock() < self._until else 0

    def admits_bulk(self, most: int, taken: int, bulk: int, turn: bool) -> bool:
        """Whether bulk may take one more of `most` places, of which it has `bulk`, and both lanes `taken`.

        It leaves the reserve free. In its `turn` it leaves it only to itself: what interactive has taken does not
        count, or it would starve behind a flood; and it gets one place at least, however few there are.
        """
        share = max(1, most - self.places)
        return bulk < share and (turn or taken < share) and taken < most
