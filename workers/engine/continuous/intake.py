"""Prompts on their way to the engine's thread, which sleeps while there is nothing to compute."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from workers.engine.continuous.requests import Request
from workers.engine.runtime.pending import Held


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A prompt that is encoded."""

    held: Held
    request: Request


class Intake:
    """Filled by any thread, emptied by the engine's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrived: list[Arrival] = []
        self._closed = False

    def put(self, arrival: Arrival) -> None:
        """Hand a prompt to the engine's thread."""
        with self._changed:
            self._arrived.append(arrival)
            self._changed.notify()

    def close(self) -> None:
        """Every `take` returns None from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self, wait: bool) -> list[Arrival] | None:
        """What has arrived since the last time; with `wait`, not before something has. None when closed."""
        with self._changed:
            while wait and not self._arrived and not self._closed:
                self._changed.wait()
            arrived, self._arrived = self._arrived, []
            return None if self._closed else arrived
