"""Tokens and jobs in flight of API keys: reserved, then settled with what was used. Counts are in Redis."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, cast

from redis.exceptions import NoScriptError

from producer.gateway.access.caller import Allowance, Caller
from producer.gateway.access.exchanges import Exchanges
from producer.gateway.access.windows import Window

SCRIPT = files("producer.gateway.access").joinpath("budgets.lua").read_text(encoding="utf-8")

_MINUTE_S, _DAY_S = 60.0, 86_400.0

#: the limit that refuses a reservation; "" if none does
Verdict = Literal["", "flight", "minute", "day"]


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of its limits a key has used, after a verb of the script."""

    verdict: Verdict
    #: None without such a limit
    minute: Window | None
    day: Window | None
    in_flight: int
    #: seconds until a place is expected to be free
    free_in_s: float

    @classmethod
    def parse(cls, reply: str, allowance: Allowance) -> Budget:
        """Read the script's reply."""
        verdict, *numbers = reply.split(" ")
        previous, current, left, day_previous, day_current, day_left, in_flight, overdue_in, lasts = map(int, numbers)
        minute_most, day_most = allowance.tokens_per_minute, allowance.tokens_per_day
        return cls(
            cast(Verdict, verdict),
            Window(minute_most, _MINUTE_S, previous, current, left / 1000) if minute_most else None,
            Window(day_most, _DAY_S, day_previous, day_current, day_left / 1000) if day_most else None,
            in_flight,
            # places become free one after the other, at the latest when the first reservation expires
            min(lasts / max(1, in_flight), overdue_in) / 1000,
        )

    @property
    def tightest(self) -> Window | None:
        """The window with the fewest tokens left."""
        return min((each for each in (self.minute, self.day) if each), key=lambda each: each.remaining, default=None)


class Budgets:
    """The script's verbs. Methods raise QueueUnavailable."""

    def __init__(self, exchanges: Exchanges, script: str = SCRIPT) -> None:
        self._exchanges = exchanges
        self._script = script
        self._sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()

    async def reserve(self, caller: Caller, job_id: str, tokens: int, timeout_s: float) -> Budget:
        """Reserve tokens and a place until the job is settled or `timeout_s` have passed."""
        most = caller.allowance
        limits = (most.tokens_per_minute or 0, most.tokens_per_day or 0, most.in_flight or 0)
        return await self._run(caller, "reserve", job_id, tokens, max(1, round(timeout_s * 1000)), *limits)

    async def settle(self, caller: Caller, job_id: str, used_tokens: int) -> Budget:
        """End a reservation with the tokens that the job used; without a reservation nothing changes."""
        return await self._run(caller, "settle", job_id, used_tokens)

    async def charge(self, caller: Caller, tokens: int) -> Budget:
        """Count tokens that nobody has reserved; never refuses."""
        return await self._run(caller, "charge", tokens)

    async def look(self, caller: Caller) -> Budget:
        """Change nothing."""
        return await self._run(caller, "look")

    async def _run(self, caller: Caller, verb: str, *arguments: str | int) -> Budget:
        name = f"vqa:budget:{caller.key_id}"
        given = [name, f"{name}:held", f"{name}:flight", verb, *map(str, arguments)]
        async with self._exchanges.exchange() as redis:
            try:
                reply = await redis.evalsha(self._sha, 3, *given)
            except NoScriptError:
                reply = await redis.eval(self._script, 3, *given)
        return Budget.parse(cast(bytes, reply).decode(), caller.allowance)
