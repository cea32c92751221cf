"""Hosts of one test: network namespaces on a switch, whose links are cut and joined.

A cut link drops packets in both directions and tells neither end, as a failed switch or a lost host does: connections
stay open, and nothing is reset. Needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN, `ip` and util-linux.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

#: namespaces of this project's tests are PREFIX, the test's process id, and the host
_PREFIX = "vqa-test-"
_NAMESPACES = Path("/run/netns")
_SUBNET = "10.213.0"

_PROGRAMS = {"ip": "iproute2", "nsenter": "util-linux", "setpriv": "util-linux", "unshare": "util-linux"}


def what_is_missing() -> str | None:
    """Return what has to be installed or allowed before a Network can be made; None if nothing is missing."""
    absent = sorted({package for program, package in _PROGRAMS.items() if not shutil.which(program)})
    if absent:
        return f"apt-get install {' '.join(absent)}"
    tried = subprocess.run(["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"], capture_output=True)
    if tried.returncode:
        return "run as root; in a container with --cap-add NET_ADMIN --cap-add SYS_ADMIN (or --privileged)"
    return None


class Network:
    """`with Network("one", "two") as network:` hosts by these names of 15 letters at most, which reach each other."""

    def __init__(self, *hosts: str) -> None:
        self._addresses = {host: f"{_SUBNET}.{number}" for number, host in enumerate(hosts, 1)}

    def __enter__(self) -> Self:
        _remove_leftovers()
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._remove()

    def address(self, host: str) -> str:
        return self._addresses[host]

    def within(self, host: str) -> list[str]:
        """Return the start of a command line that runs a program on this host until this process ends.

        The host's name is its own, and so are process numbers: with the program ends whatever it has started. The
        program that a caller starts with this is the one to kill.
        """
        alone = ["--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        named = ["sh", "-c", 'hostname "$0"; exec "$@"', host]
        return [*self.on(host), "unshare", *alone, *named]

    def on(self, host: str) -> list[str]:
        """Return the start of a command line that gives a program this host's network, until this process ends."""
        return ["nsenter", f"--net={_NAMESPACES / _namespace(host)}", "setpriv", "--pdeathsig", "KILL"]

    def cut(self, host: str) -> None:
        """Drop all packets from and to the host, silently."""
        _ip("-netns", _namespace("switch"), "link", "set", host, "nomaster")

    def join(self, host: str) -> None:
        """Undo `cut`."""
        _ip("-netns", _namespace("switch"), "link", "set", host, "master", "switch")

    def _build(self) -> None:
        switch = _namespace("switch")
        _ip("netns", "add", switch)
        # a namespace for the switch, too: the machine's own network is not touched
        _ip("-netns", switch, "link", "add", "switch", "type", "bridge")
        _ip("-netns", switch, "link", "set", "switch", "up")
        for host, address in self._addresses.items():
            own = _namespace(host)
            _ip("netns", "add", own)
            _ip("-netns", switch, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", own)
            _ip("-netns", switch, "link", "set", host, "master", "switch", "up")
            _ip("-netns", own, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-netns", own, "link", "set", device, "up")

    def _remove(self) -> None:
        for host in (*self._addresses, "switch"):
            if (_NAMESPACES / _namespace(host)).exists():
                _ip("netns", "delete", _namespace(host))


def _namespace(host: str) -> str:
    return f"{_PREFIX}{os.getpid()}-{host}"


def _remove_leftovers() -> None:
    """Remove the namespaces of test runs that were killed."""
    for path in _NAMESPACES.glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            # another test run may be faster
            subprocess.run(["ip", "netns", "delete", path.name], capture_output=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
