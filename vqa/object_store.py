"""What all that use obstore in one process share: its threads, which no forked child has, and access without TLS."""

from __future__ import annotations

import os
from collections.abc import Mapping

#: obstore reads them, but not if it is given other options
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")

#: process in which obstore's threads run
_runtime_pid: int | None = None


def allows_http(environment: Mapping[str, str]) -> bool:
    """Return whether the environment allows object stores without TLS."""
    return any(environment.get(name, "").lower() in ("1", "true") for name in _ALLOW_HTTP)


def runs_here() -> bool:
    """Return whether obstore works in this process; call it before each use.

    It does not in a child that was forked after the first use: the child has none of its threads, and would wait for
    ever.
    """
    global _runtime_pid
    if _runtime_pid is None:
        _runtime_pid = os.getpid()
    return _runtime_pid == os.getpid()
