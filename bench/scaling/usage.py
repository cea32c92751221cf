"""What Redis has used between two moments, by its own counters: computing time, bytes and calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis


@dataclass(frozen=True)
class Usage:
    """Counters of a server since its start, or their difference."""

    #: of the main thread, which runs all commands; it is what ends first
    cpu_s: float
    in_bytes: int
    out_bytes: int
    #: calls and microseconds of wall time of each command
    calls: Mapping[str, int]
    micros: Mapping[str, float]

    @classmethod
    def read(cls, redis: Redis) -> Usage:
        info: dict[str, Any] = redis.info()
        commands: dict[str, Any] = redis.info("commandstats")
        return cls(
            info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"],
            info["total_net_input_bytes"],
            info["total_net_output_bytes"],
            {name.removeprefix("cmdstat_"): each["calls"] for name, each in commands.items()},
            {name.removeprefix("cmdstat_"): each["usec"] for name, each in commands.items()},
        )

    def since(self, before: Usage) -> Usage:
        """Return what was used after `before`."""
        return Usage(
            self.cpu_s - before.cpu_s,
            self.in_bytes - before.in_bytes,
            self.out_bytes - before.out_bytes,
            {name: count - before.calls.get(name, 0) for name, count in self.calls.items()},
            {name: micros - before.micros.get(name, 0) for name, micros in self.micros.items()},
        )

    @property
    def scripts(self) -> int:
        return self.calls.get("evalsha", 0) + self.calls.get("eval", 0)

    @property
    def script_us(self) -> float:
        """Microseconds of wall time that a script took on average."""
        return (self.micros.get("evalsha", 0) + self.micros.get("eval", 0)) / max(1, self.scripts)
