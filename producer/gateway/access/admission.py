"""Admits requests and jobs by what their API key allows."""

from __future__ import annotations

import asyncio
import logging

from producer.gateway.access.budgets import Budget, Budgets
from producer.gateway.access.caller import Caller
from producer.gateway.access.exchanges import Exchanges
from producer.gateway.access.rate_limits import RequestLimits
from producer.gateway.access.windows import Window
from producer.gateway.errors import Forbidden, RateLimited
from vqa.errors import QueueUnavailable
from vqa.jobs.lane import Lane

log = logging.getLogger(__name__)


class Admission:
    """Limits of API keys; counts are in Redis, shared by all gateway processes."""

    def __init__(self, exchanges: Exchanges) -> None:
        self._requests = RequestLimits(exchanges)
        self._budgets = Budgets(exchanges)
        self._settling: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for settlements in progress."""
        await asyncio.gather(*self._settling)

    async def count(self, caller: Caller) -> None:
        """Count a request. Raises RateLimited if the key's limit of requests is reached, QueueUnavailable."""
        refusing = await self._requests.count(caller)
        if refusing:
            raise _limited(f"{refusing.limit} requests {_per(refusing)}", refusing.wait_s())

    async def look(self, caller: Caller) -> None:
        """Look up the usage of those limits that this request did not count towards. Raises QueueUnavailable."""
        most, usage = caller.allowance, caller.usage
        if usage.requests is None:
            await self._requests.look(caller)
        if usage.tokens is None and (most.tokens_per_minute or most.tokens_per_day):
            usage.tokens = (await self._budgets.look(caller)).tightest

    async def reserve(self, caller: Caller, job_id: str, *, tokens: int, lane: Lane, timeout_s: float) -> None:
        """Reserve `tokens` (of the prompt, and the longest answer) and a place in flight, until the job is settled.

        Without a settlement the reservation ends after `timeout_s`. Raises Forbidden if the key may not use the lane or
        never has so many tokens, RateLimited if a limit is reached, QueueUnavailable.
        """
        self.check_lane(caller, lane)
        if caller.allowance.limits_jobs:
            _check_size(caller, tokens)
            budget = await self._budgets.reserve(caller, job_id, tokens, timeout_s)
            caller.usage.tokens = budget.tightest
            if budget.verdict:
                raise _refusal(budget, caller, tokens)

    async def settle(self, caller: Caller, job_id: str, used_tokens: int) -> None:
        """Free the job's place in flight and refund the tokens that it did not use, all for a job that failed.

        Any gateway process may settle a job, repeatedly. Goes on if the calling task is cancelled. Raises nothing if
        Redis is away: the reservation then ends at its deadline.
        """
        if task := self._start_settling(caller, job_id, used_tokens):
            await asyncio.shield(task)

    def settle_soon(self, caller: Caller, job_id: str, used_tokens: int) -> None:
        """Do as `settle` in the background."""
        self._start_settling(caller, job_id, used_tokens)

    def _start_settling(self, caller: Caller, job_id: str, used_tokens: int) -> asyncio.Task[None] | None:
        if not caller.allowance.limits_jobs:
            return None
        task = asyncio.create_task(self._settle(caller, job_id, used_tokens))
        # asyncio itself holds no reference to a task
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return task

    async def _settle(self, caller: Caller, job_id: str, used_tokens: int) -> None:
        try:
            caller.usage.tokens = (await self._budgets.settle(caller, job_id, used_tokens)).tightest
        except QueueUnavailable as error:
            log.warning("job %s stays counted in flight until its deadline: %s", job_id, error)

    async def charge(self, caller: Caller, tokens: int) -> None:
        """Count tokens that were used without a reservation, such as those of a batch's rows; never refuses.

        Raises QueueUnavailable. A charge whose reply was lost may be counted twice.
        """
        if tokens and (caller.allowance.tokens_per_minute or caller.allowance.tokens_per_day):
            caller.usage.tokens = (await self._budgets.charge(caller, tokens)).tightest

    async def check_batch(self, caller: Caller, lane: Lane = "bulk") -> None:
        """Raise Forbidden if the key may not use the lane, RateLimited if its tokens are used up, QueueUnavailable."""
        self.check_lane(caller, lane)
        await self.look(caller)
        tokens = caller.usage.tokens
        if tokens and not tokens.remaining:
            raise _limited(f"{tokens.limit} tokens {_per(tokens)}", tokens.wait_s())

    @staticmethod
    def check_lane(caller: Caller, lane: Lane) -> None:
        """Raise Forbidden if the key may not use the lane."""
        if lane not in caller.lanes:
            raise Forbidden(f"this API key may not use lane {lane}", code="lane_not_allowed")


def _check_size(caller: Caller, tokens: int) -> None:
    """Raise Forbidden if the key's limits never allow so many tokens at once."""
    most = caller.allowance
    for limit, per in ((most.tokens_per_minute, "a minute"), (most.tokens_per_day, "a day")):
        if limit and tokens > limit:
            raise Forbidden(
                f"the request may take {tokens} tokens, and this API key has {limit} {per}; ask for a shorter answer",
                code="too_many_tokens",
            )


def _refusal(budget: Budget, caller: Caller, tokens: int) -> RateLimited:
    if budget.verdict == "flight":
        return _limited(f"{caller.allowance.in_flight} requests in flight", budget.free_in_s)
    window = budget.minute if budget.verdict == "minute" else budget.day
    assert window
    caller.usage.tokens = window
    return _limited(
        f"{window.limit} tokens {_per(window)} ({window.remaining} are left, and the request may take {tokens})",
        window.wait_s(tokens),
    )


def _limited(limit: str, wait_s: float) -> RateLimited:
    return RateLimited(
        f"this API key's limit of {limit} is reached", code="rate_limit_exceeded", retry_after_s=max(wait_s, 1.0)
    )


def _per(window: Window) -> str:
    return "a day" if window.length_s > 60 else "a minute"
