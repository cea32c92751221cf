"""Who runs beside whom in a worker: most jobs together, one that has lost workers before by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Company:
    """A lock for many or for one. Who wants to be alone goes before who comes later, or it would be put off for ever.

    Who waits here holds no lease: if the process dies meanwhile, no attempt of its job is used up.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._present = 0
        self._loners = 0
        self._alone = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._loners and not self._alone)
            self._present += 1
        try:
            yield
        finally:
            with self._changed:
                self._present -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run when all others have ended, and let nobody begin."""
        with self._changed:
            self._loners += 1
            self._changed.wait_for(lambda: not self._present and not self._alone)
            self._loners -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
