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


async def with_retries(attempt: Callable[[], Awaitable[bytes]], timeout_s: float, late: str) -> bytes:
    """Return what `attempt` returns, within `timeout_s` seconds.

    Raises what it raises, but ImageUnavailable instead of Transient once the attempts or the time are used up: a pause
    that would not end in time, a server's Retry-After included, is not begun. Without a Transient it says `late`.
    """
    until = asyncio.get_running_loop().time() + timeout_s
    said = late
    try:
        async with asyncio.timeout_at(until):
            for number in range(1, _ATTEMPTS + 1):
                try:
                    return await attempt()
                except Transient as error:
                    said = str(error)
                    pause_s = _PAUSE_S * 2 ** (number - 1) * random.uniform(0.5, 1)
                    pause_s = max(pause_s, error.retry_after_s or 0)
                if number == _ATTEMPTS or asyncio.get_running_loop().time() + pause_s >= until:
                    break
                await asyncio.sleep(pause_s)
    except TimeoutError:
        pass
    raise ImageUnavailable(said)
