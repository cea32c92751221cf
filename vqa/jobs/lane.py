"""The two lanes of the queue: which jobs go first."""

from typing import Literal

Lane = Literal["interactive", "bulk"]
LANES: tuple[Lane, ...] = ("interactive", "bulk")
