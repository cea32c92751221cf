"""What happens while Redis fails: the error that a producer gets, and how long waiting callers keep trying."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vqa.errors import QueueUnavailable
from vqa.images.stores.contents import StoreUnavailable
from vqa.redis.connection import REDIS_ERRORS, cause_of
from vqa.redis.error_replies import ErrorReply, is_temporary
from vqa.settings import QueueSettings

#: pause between two tries; it doubles
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5

#: an exchange that has taken longer than this counts as an outage
_SLOW_S = 3.0

#: what an error reply means, by its code
_PROBLEMS = {
    "NOAUTH": "refuses the user or the password",
    "NOPERM": "does not let this user do what vqa needs",
    "OOM": "is full",
    "LOADING": "is loading its data",
    "BUSY": "is busy with a script",
    "MAXCLIENTS": "accepts no more connections",
    "UNCONFIRMED": "has accepted it, but its replicas have not confirmed it",
}


class Unreachable(Exception):
    """One exchange with Redis failed, and may succeed after a pause."""

    def __init__(self, pause_s: float) -> None:
        super().__init__(pause_s)
        self.pause_s = pause_s


class Outage:
    """Tracks an outage of Redis: waiting callers retry for up to redis_timeout_s, then they get QueueUnavailable."""

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        #: monotonic start of the first exchange that failed since the last success
        self._since: float | None = None
        self._failures = 0
        self._last: BaseException | None = None
        #: monotonic starts of the short exchanges in progress
        self._running: list[float] = []

    def forget(self) -> None:
        """Reset the start of the outage, when no caller waits any more."""
        self._since = None

    @contextmanager
    def exchange(self, short: bool = True) -> Iterator[None]:
        """Run one exchange with Redis. Raises Unreachable, or QueueUnavailable if no other should be tried."""
        started = time.monotonic()
        if short:
            self._running.append(started)
        try:
            yield
        except REDIS_ERRORS as error:
            raise self._failed(error, started) from error
        else:
            self._since, self._failures = None, 0
        finally:
            if short:
                self._running.remove(started)

    def _failed(self, error: BaseException, started: float) -> Unreachable | QueueUnavailable:
        since = self._since = started if self._since is None else min(self._since, started)
        self._last = error
        if not is_temporary(cause_of(error)) or time.monotonic() - since >= self._settings.redis_timeout_s:
            return unavailable(error, self._settings)
        self._failures += 1
        return Unreachable(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10)))

    def check(self) -> None:
        """Raise QueueUnavailable if Redis fails now: a caller that stops waiting cannot know the state of its jobs."""
        if self._since is not None and self._last is not None:
            raise unavailable(self._last, self._settings)
        if any(time.monotonic() - started > _SLOW_S for started in list(self._running)):
            raise unavailable(TimeoutError(), self._settings)


@contextmanager
def redis_errors(settings: QueueSettings) -> Iterator[None]:
    """Raise QueueUnavailable, which says what to check, in place of errors of Redis and kombu."""
    try:
        yield
    except REDIS_ERRORS as error:
        raise unavailable(error, settings) from error


def unavailable(error: BaseException, settings: QueueSettings) -> QueueUnavailable:
    """Convert one of connection.REDIS_ERRORS. The message does not contain the password."""
    if isinstance(error, StoreUnavailable):
        return QueueUnavailable(str(error))
    return QueueUnavailable(_explain(cause_of(error), settings.address.where))


def _explain(error: BaseException, redis: str) -> str:
    reply = ErrorReply.parse(error)
    if isinstance(error.__cause__ or error.__context__, socket.gaierror):
        return f"{redis}: the name of this host is unknown here; check its spelling in VQA_REDIS_URL, and the DNS"
    if reply is None:
        return f"{redis} does not answer ({type(error).__name__}); check that it runs and that VQA_REDIS_URL names it"
    problem = _PROBLEMS.get(reply.code, "refuses a command")
    return f"{redis} {problem} ({reply}); {reply.advice}"
