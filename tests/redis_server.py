"""A Redis server of one test's own, to be configured, killed, stopped, paused and started again on the same data."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis

from producer.demo.child import Child
from producer.demo.redis_server import find_server, free_port

#: what a server says in its log when it serves; a Sentinel says the second
_SERVES = ("Ready to accept connections", "+monitor master")


class RedisServer:
    """`with RedisServer(tmp_path / "redis", "maxmemory 50mb", append_only=True) as server:` then `server.url`.

    It never outlives the test's process, and ends with the `with` statement whatever was done to it. Its data stay in
    the folder, so that `start` after `kill` or `stop` goes on with them where it is `append_only`.
    """

    def __init__(
        self,
        folder: Path,
        *lines: str,
        append_only: bool = False,
        port: int | None = None,
        arguments: Sequence[str] = (),
        program: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "log"
        self.port = port or free_port()
        self._arguments = arguments
        self._program = program or [str(find_server())]
        self._child: Child | None = None
        self._configuration = folder / "redis.conf"
        own = ["bind 127.0.0.1", f"dir {folder}", f"pidfile {folder}/pid", "daemonize no", 'save ""']
        own += [f"appendonly {'yes' if append_only else 'no'}"]
        # a test that serves TLS alone gives `port 0` and its own tls-port
        own += [] if any(line.startswith("port ") for line in lines) else [f"port {self.port}"]
        self._configuration.write_text("\n".join([*own, *lines, ""]))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it is, for a server without passwords and TLS."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id; a new one after each start."""
        return int((self.folder / "pid").read_text())

    def start(self, timeout_s: float = 20) -> None:
        """Start it, for the first time or again; returns when it serves. Raises AssertionError with its log."""
        assert self._child is None, "it runs already"
        (self.folder / "pid").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            said_before = log.tell()
            self._child = Child([*self._program, self._configuration, *self._arguments], log)
        until = time.monotonic() + timeout_s
        while not any(word in self.log.read_bytes()[said_before:].decode(errors="replace") for word in _SERVES):
            if self._child.code() is not None or time.monotonic() > until:
                self.stop()
                raise AssertionError(f"the server did not start:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        self._signal(signal.SIGKILL)
        self._end()

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended. Does nothing where it does not run."""
        if self._child is not None:
            # a paused process does not hear SIGTERM
            with suppress(OSError):
                self.resume()
            self._end()

    def pause(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: what waited in its sockets is answered now."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def _end(self) -> None:
        assert self._child
        self._child.stop()
        self._child = None


@contextmanager
def flushing_scripts(url: str) -> Iterator[None]:
    """Somebody flushes the server's scripts, again and again."""
    over = threading.Event()

    def flush() -> None:
        with Redis.from_url(url) as redis:
            while not over.wait(0.001):
                redis.script_flush()

    thread = threading.Thread(target=flush)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
