"""A Redis that does not do its part: what a producer is told, and how long those who wait ride it out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, ResponseError

from vqa.connection import UNREACHED, cause_of
from vqa.errors import QueueUnavailable
from vqa.redis_retry import passes
from vqa.settings import QueueSettings

#: between two tries, longer each time
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5

#: an exchange that takes longer than this has met a Redis that is silent, or nearly so
_QUIET_S = 3.0


class Away(Exception):
    """Redis did not do its part in one exchange; another one may go better, after a pause."""

    def __init__(self, pause_s: float) -> None:
        super().__init__(pause_s)
        self.pause_s = pause_s


class Outage:
    """How long Redis has been away for those who wait: up to redis_timeout_s they try again, then they are told."""

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        #: monotonic: when the first exchange began that failed since one went well
        self._since: float | None = None
        self._failures = 0
        self._last: BaseException | None = None
        #: whether the last exchange that ended failed
        self.failing = False
        #: when the short exchanges began that are under way
        self._begun: list[float] = []

    def forget(self) -> None:
        """Nobody waits any more: the next one's outage begins anew."""
        self._since = None

    @contextmanager
    def exchange(self, short: bool = True) -> Iterator[None]:
        """Around one exchange with Redis. Raises Away, and QueueUnavailable when no other is to be tried."""
        begun = time.monotonic()
        if short:
            self._begun.append(begun)
        try:
            yield
        except UNREACHED as error:
            raise self._away(error, begun) from error
        else:
            self._since, self._failures, self.failing = None, 0, False
        finally:
            if short:
                self._begun.remove(begun)

    def _away(self, error: BaseException, begun: float) -> Away | QueueUnavailable:
        since = self._since = begun if self._since is None else min(self._since, begun)
        self._last, self.failing = error, True
        if not passes(cause_of(error)) or time.monotonic() - since >= self._settings.redis_timeout_s:
            return unavailable(error, self._settings)
        self._failures += 1
        return Away(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10)))

    def check(self) -> None:
        """Raise QueueUnavailable where Redis is away now: whoever stops waiting has not heard how its jobs stand."""
        if self._since is not None and self._last is not None:
            raise unavailable(self._last, self._settings)
        if any(time.monotonic() - begun > _QUIET_S for begun in list(self._begun)):
            raise unavailable(TimeoutError(), self._settings)


@contextmanager
def reaching(settings: QueueSettings) -> Iterator[None]:
    """Turn whatever Redis and kombu raise into QueueUnavailable that says what to check, without the password."""
    try:
        yield
    except UNREACHED as error:
        raise unavailable(error, settings) from error


def unavailable(error: BaseException, settings: QueueSettings) -> QueueUnavailable:
    """What a producer is told when one of connection.UNREACHED was raised."""
    return QueueUnavailable(_explain(cause_of(error), place_of(settings)))


def place_of(settings: QueueSettings) -> str:
    """Where Redis is, in words that hold no password."""
    address = settings.address
    places = ", ".join(f"{host}:{port}" for host, port in address.hosts)
    return f"Redis at {places}" if address.master is None else f"Redis {address.master} (Sentinels at {places})"


def _explain(error: BaseException, where: str) -> str:
    if isinstance(error, AuthenticationError):
        return f"{where} refuses the user or the password; check VQA_REDIS_URL"
    if isinstance(error, OutOfMemoryError):
        return f"{where} is full; raise its maxmemory, or wait until jobs are answered"
    if isinstance(error, NoPermissionError):
        return f"{where} does not let this user do what vqa needs; check its access list"
    if isinstance(error, ResponseError):
        # the rest of the line may repeat what was sent
        code = str(error).partition(" ")[0] if type(error) is ResponseError else type(error).__name__
        return f"{where} refused a command ({code}); vqa needs Redis 7.0 or later and its keys"
    return f"{where} does not answer ({type(error).__name__}); check that it runs and that VQA_REDIS_URL names it"
