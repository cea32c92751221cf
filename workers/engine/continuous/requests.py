"""A prompt as numbers: its tokens, where they stand, and the pixels of its images."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from torch import Tensor

from workers.engine.runtime.pending import Pending
from workers.engine.text.grammar import Guide


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """An image in a prompt."""

    #: RGB, row by row: height x width x 3 bytes
    pixels: bytes
    #: patches from top to bottom and from left to right
    rows: int
    columns: int
    #: its first token in the prompt, and how many there are
    start: int
    tokens: int
    digest: str

    @property
    def patches(self) -> int:
        """What the vision tower computes."""
        return self.rows * self.columns

    @property
    def stop(self) -> int:
        """The token after its last one."""
        return self.start + self.tokens


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A prompt as numbers, on the host."""

    #: (n) int64
    tokens: Tensor
    #: (n, 3) int64: time, height and width
    positions: Tensor
    sights: tuple[Sight, ...]
    #: of a prompt with a grammar
    guide: Guide | None = None

    @property
    def count(self) -> int:
        """Tokens of the prompt."""
        return len(self.tokens)

    @property
    def shift(self) -> int:
        """What is added to an answer token's number to get its position: images take fewer positions than tokens."""
        return int(self.positions.max()) + 1 - self.count


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A prompt that is encoded."""

    pending: Pending
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
