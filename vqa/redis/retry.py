"""Retries of Redis calls, limited by time instead of by number.

redis-py limits the number of tries, separately for the call and for each of its parts (connect, health check): 60 tries
become 60 x 60 for a refused connection, and 60 timeouts for a silent server.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import redis.asyncio.retry
import redis.retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import ConnectionError, NoScriptError, ResponseError, TimeoutError

from vqa.redis.error_replies import is_temporary

#: no connection, no reply in time, or an error reply, of which some are temporary
_FAILURES = (ConnectionError, TimeoutError, OSError, ResponseError)

_BACKOFF = ExponentialWithJitterBackoff(base=0.05, cap=1.0)

#: redis-py needs a number of retries for its statistics; it decides nothing
_UNLIMITED = 1_000_000

#: whether a call is being retried: then its parts are tried only once
_trying: ContextVar[bool] = ContextVar("trying", default=False)


class _Tries:
    def __init__(self, seconds: float, lost_s: float) -> None:
        now = time.monotonic()
        self._end, self._end_if_lost = now + seconds, now + lost_s
        self.failures = 0

    def pause_s(self, error: BaseException) -> float | None:
        """Return the seconds until the next try; None if there is none."""
        self.failures += 1
        if _is_lost(error):
            self._end = max(self._end, self._end_if_lost)
        left_s = self._end - time.monotonic()
        if left_s <= 0 or not is_temporary(error):
            return None
        return min(left_s, float(_BACKOFF.compute(self.failures)))


@contextmanager
def _tries(seconds: float, lost_s: float) -> Iterator[_Tries]:
    before = _trying.set(True)
    try:
        yield _Tries(*((0, 0) if before.old_value is True else (seconds, lost_s)))
    finally:
        _trying.reset(before)


def _is_final_reply(error: BaseException) -> bool:
    """Return whether Redis replied with an error that a retry would repeat."""
    return isinstance(error, ResponseError) and not is_temporary(error)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, its cause, and so on; causes and contexts together may form a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_lost(error: BaseException) -> bool:
    """Return whether the kernel has given up the connection (`TCP_USER_TIMEOUT`), as redis-py's own timeouts are not.

    Its host may be lost. Or Redis has hung in the middle of a long command, of which its kernel takes no more: Linux
    counts that, too.
    """
    return any(isinstance(cause, OSError) and cause.errno == errno.ETIMEDOUT for cause in causes(error))


class RetryFor(redis.retry.Retry):
    """Retries a call for `seconds`, or for `lost_s` from its start once the kernel has given up its connection.

    A try that is in progress then is not interrupted.
    """

    def __init__(self, seconds: float, lost_s: float = 0.0) -> None:
        super().__init__(NoBackoff(), _UNLIMITED, _FAILURES)
        self._seconds, self._lost_s = seconds, lost_s

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        """Call `do`; after an error call `fail`, redis-py's function that closes the connection, and retry."""
        with _tries(self._seconds, self._lost_s) as tries:
            while True:
                try:
                    return do()
                except _FAILURES as error:
                    if _is_final_reply(error) or (is_retryable and not is_retryable(error)):
                        raise
                    pause_s = tries.pause_s(error)
                    fail(error, *([tries.failures] if with_failure_count else []))
                    if pause_s is None:
                        raise
                time.sleep(pause_s)


class AsyncRetryFor(redis.asyncio.retry.Retry):
    """`RetryFor` for asyncio; NOSCRIPT is raised at once, as redis-py's scripts then load themselves."""

    def __init__(self, seconds: float, lost_s: float = 0.0) -> None:
        super().__init__(NoBackoff(), _UNLIMITED, _FAILURES)  # type: ignore[arg-type]  # OSError is no RedisError
        self._seconds, self._lost_s = seconds, lost_s

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[Any]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        with _tries(self._seconds, self._lost_s) as tries:
            while True:
                try:
                    return await do()
                except _FAILURES as error:
                    if _is_final_reply(error) or isinstance(error, NoScriptError):
                        raise
                    if is_retryable and not is_retryable(error):
                        raise
                    pause_s = tries.pause_s(error)
                    await fail(error, *([tries.failures] if with_failure_count else []))
                    if pause_s is None:
                        raise
                await asyncio.sleep(pause_s)
