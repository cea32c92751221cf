"""How long a call to Redis is tried again: by time, however its tries fail and whatever they are part of.

redis-py counts tries, and counts them anew for the parts of a call (to connect, a health check): 60 tries of a
connection that is refused come to 60 x 60, and 60 tries of a silent server to 60 timeouts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import redis.asyncio.retry
import redis.retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,
    MasterDownError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)

#: no connection or no answer in time; and answers, of which some mean that another try may go better
_FAILURES = (ConnectionError, TimeoutError, OSError, ResponseError)

#: a replica answered: a failover is under way, or the address leads elsewhere now
_PASSING = (ReadOnlyError, MasterDownError)
#: for these, a disk that is full and replicas that are missing, redis-py has no classes
_PASSING_CODES = ("MISCONF", "NOREPLICAS")

_BACKOFF = ExponentialWithJitterBackoff(base=0.05, cap=1.0)

#: redis-py's own statistics ask for a number of retries; none of it decides
_COUNTLESS = 1_000_000

#: set inside a call that is being tried: its parts are tried once
_trying: ContextVar[bool] = ContextVar("trying", default=False)


def passes(error: BaseException) -> bool:
    """Whether another try, on a fresh connection, may go better."""
    if isinstance(error, ResponseError):
        return isinstance(error, _PASSING) or str(error).startswith(_PASSING_CODES)
    return not isinstance(error, AuthenticationError | AuthorizationError)


class _Tries:
    """The tries of one call."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.failures = 0

    def pause_s(self, error: BaseException) -> float | None:
        """How long to wait for the next try; None when there is none."""
        self.failures += 1
        left_s = self._end - time.monotonic()
        if left_s <= 0 or not passes(error):
            return None
        return min(left_s, float(_BACKOFF.compute(self.failures)))


@contextmanager
def _tries(seconds: float) -> Iterator[_Tries]:
    before = _trying.set(True)
    try:
        yield _Tries(0 if before.old_value is True else seconds)
    finally:
        _trying.reset(before)


def _is_plain_answer(error: BaseException) -> bool:
    """The connection is in order, and nothing is to be gained by another."""
    return isinstance(error, ResponseError) and not passes(error)


class RetryFor(redis.retry.Retry):
    """Tries a call again for so many seconds; a try that is under way then is not cut short."""

    def __init__(self, seconds: float) -> None:
        super().__init__(NoBackoff(), _COUNTLESS, _FAILURES)
        self._seconds = seconds

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        """`fail` is redis-py's, and closes the connection."""
        with _tries(self._seconds) as tries:
            while True:
                try:
                    return do()
                except _FAILURES as error:
                    if _is_plain_answer(error) or (is_retryable and not is_retryable(error)):
                        raise
                    pause_s = tries.pause_s(error)
                    fail(error, *([tries.failures] if with_failure_count else []))
                    if pause_s is None:
                        raise
                time.sleep(pause_s)


class AsyncRetryFor(redis.asyncio.retry.Retry):
    """The same for asyncio."""

    def __init__(self, seconds: float) -> None:
        super().__init__(NoBackoff(), _COUNTLESS, _FAILURES)  # type: ignore[arg-type]  # OSError is no RedisError
        self._seconds = seconds

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[Any]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        """See `RetryFor`."""
        with _tries(self._seconds) as tries:
            while True:
                try:
                    return await do()
                except _FAILURES as error:
                    if _is_plain_answer(error) or (is_retryable and not is_retryable(error)):
                        raise
                    pause_s = tries.pause_s(error)
                    await fail(error, *([tries.failures] if with_failure_count else []))
                    if pause_s is None:
                        raise
                await asyncio.sleep(pause_s)
