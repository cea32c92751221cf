"""Repeats a fetch that failed for the moment, within the time that it has."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from vqa.errors import ImageUnavailable

#: attempts in all, and seconds before the second one, the third, ...
_ATTEMPTS, _PAUSE_S = 3, 0.5


class Transient(Exception):
    """An attempt failed in a way that another one may not; never leaves this package."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        #: seconds that the server asks for
        self.retry_after_s = retry_after_s


async def with_retries(attempt: Callable[[], Awaitable[bytes]], timeout_s: float) -> bytes:
    """Return what `attempt` returns. Raises what it raises, but ImageUnavailable instead of the last Transient.

    A pause that would not end before `timeout_s` seconds have passed, a server's Retry-After included, ends the
    attempts.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    for number in range(1, _ATTEMPTS + 1):
        try:
            return await attempt()
        except Transient as error:
            pause_s = _PAUSE_S * 2 ** (number - 1) * random.uniform(0.5, 1)
            pause_s = max(pause_s, error.retry_after_s or 0)
            if number == _ATTEMPTS or loop.time() + pause_s >= until:
                raise ImageUnavailable(str(error)) from None
        await asyncio.sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")
