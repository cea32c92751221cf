"""Starts clients afresh in a forked child: sockets, locks and threads that it inherits are the parent's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cached_property
from threading import RLock
from typing import Any, Protocol
from weakref import WeakSet

from kombu.pools import connections, producers


class Restartable(Protocol):
    """Something that holds connections, locks or threads."""

    def start(self) -> None:
        """Make new ones; those from before may be in any state, and are not closed."""


_parts: WeakSet[Any] = WeakSet()


def restart_in_children(part: Restartable) -> None:
    """Have `part.start` called in every child that this process forks, as long as the part exists."""
    _parts.add(part)


def _start_afresh() -> None:
    if not _parts:
        return
    for each in _lazy_attributes():
        # a thread that the child does not have may hold it: kombu locks one per class at every access
        each.lock = RLock()
    # a thread may hold a pool's lock, too; what still refers to the pools, such as another app, keeps them
    connections.clear()
    producers.clear()
    for part in list(_parts):
        part.start()


def _lazy_attributes() -> Iterator[Any]:
    # `type` and not `isinstance`, which would ask Celery's proxies, and they make the current app
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("kombu", "celery"):
            kinds = [kind for kind in list(vars(module).values()) if issubclass(type(kind), type)]
            yield from (
                each for kind in kinds for each in vars(kind).values() if issubclass(type(each), cached_property)
            )


os.register_at_fork(after_in_child=_start_afresh)
