"""Admits requests by what their API key allows."""

from __future__ import annotations

from dataclasses import dataclass

import redis.asyncio

from producer.gateway.access.caller import Caller
from producer.gateway.errors import Forbidden
from vqa.job import Lane


@dataclass(frozen=True, slots=True)
class Reservation:
    """Tokens and a place in flight that one job holds until it is settled, or until its deadline."""

    admission: Admission
    caller: Caller
    job_id: str

    async def settle(self, used_tokens: int) -> None:
        """Free the place and refund the tokens that were not used; 0 where the job did not run."""
        await self.admission.settle(self.caller, self.job_id, used_tokens)


class Admission:
    """Limits of API keys; counts are in Redis, shared by all gateway processes."""

    def __init__(self, connection: redis.asyncio.Redis) -> None:
        self._redis = connection

    async def reserve(self, caller: Caller, job_id: str, *, tokens: int, lane: Lane, timeout_s: float) -> Reservation:
        """Reserve `tokens` (of the prompt, and the longest answer) and a place in flight for at most `timeout_s`.

        Raises Forbidden if the key may not use the lane or never has so many tokens, RateLimited if a limit is reached,
        QueueUnavailable.
        """
        self.check_lane(caller, lane)
        return Reservation(self, caller, job_id)

    async def settle(self, caller: Caller, job_id: str, used_tokens: int) -> None:
        """Settle a reservation by its job's id, once the job has ended, in any gateway process; repeatable."""

    async def charge(self, caller: Caller, tokens: int) -> None:
        """Count tokens that were used without a reservation, such as those of a batch's rows."""

    async def check_batch(self, caller: Caller) -> None:
        """Raise Forbidden if the key may not use lane bulk, RateLimited if its tokens are used up."""
        self.check_lane(caller, "bulk")

    def check_lane(self, caller: Caller, lane: Lane) -> None:
        """Raise Forbidden if the key may not use the lane."""
        if lane not in caller.lanes:
            raise Forbidden(f"this API key may not use lane {lane}", code="lane_not_allowed")
