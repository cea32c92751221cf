"""When leases may be judged: not within a lease time of an interruption, in which workers could not renew them.

An interruption is a gap between answers of Redis, another server (a restart, a failover), or a step of its clock, by
which all leases would seem to have run out. Steps are found by comparison with this process's monotonic clock.
"""

from __future__ import annotations

import logging
import time
from typing import cast

from redis import Redis

from vqa.ledger.ledger import Ledger
from vqa.ledger.records import texts

log = logging.getLogger(__name__)

#: a longer time without an answer is a gap
GAP_S = 3.0
#: a larger change between the clocks is a step
_STEP_S = 1.0

#: tolerance before a lease's end shows that the clock was set back, as in lua/records.lua
_LATE_MS = 5000
#: leases that are looked at
_MOST = 500


def count_impossible(redis: Redis, queue: str, now_ms: float, lease_s: float) -> int:
    """Return how many leases end later than they can: Redis's clock was set back, and nobody has renewed them since.

    Workers may have other leases than `lease_s`.
    """
    latest = now_ms + lease_s * 1000 + _LATE_MS
    leased = f"vqa:leased:{queue}"
    found = cast(list[tuple[bytes, float]], redis.zrevrangebyscore(leased, "+inf", latest, 0, _MOST, withscores=True))
    ends = {id: end for each, end in found for id in texts([each])}
    spans = {id: header.span for id, header in Ledger(redis).headers([*ends]).items()}
    return sum(span is not None and ends[id] > now_ms + span + _LATE_MS for id, span in spans.items())


class LeaseCheck:
    """Watches Redis: call `time_ms` before each check of leases, and `answered` after the calls that follow it."""

    def __init__(self, redis: Redis, lease_s: float) -> None:
        self._redis = redis
        self._lease_s = lease_s
        #: of the server that answered last
        self._run_id: object = None
        #: by how much Redis's clock was ahead of `time.monotonic()`, at least and at most
        self._ahead_s = (0.0, 0.0)
        self._answered = self._judge_from = float("-inf")

    def time_ms(self) -> int | None:
        """Return Redis's time if leases may be judged now, else None. Raises redis.exceptions.RedisError."""
        asked = time.monotonic()
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.info("server")
            pipe.time()
            about, (seconds, micros) = pipe.execute()
        # after the call, which Redis may have held up
        now = time.monotonic()
        redis_s = seconds + micros / 1e6
        gap = now - self._answered > GAP_S
        step_s = 0.0 if gap else self._step_s(redis_s - now, redis_s - asked)
        if gap or about.get("run_id") != self._run_id or abs(step_s) > _STEP_S:
            self._judge_from = now + self._lease_s
        if abs(step_s) > _STEP_S:
            said = "Redis's clock was set %s by %.0f s; leases are not judged for %.0f s"
            log.warning(said, "forward" if step_s > 0 else "back", abs(step_s), self._lease_s)
        self._run_id, self._ahead_s = about.get("run_id"), (redis_s - now, redis_s - asked)
        return seconds * 1000 + micros // 1000 if now >= self._judge_from else None

    def _step_s(self, least_s: float, most_s: float) -> float:
        """Return by how much Redis's clock must have been set, given how far ahead it is now: 0 in a slow network."""
        before_least_s, before_most_s = self._ahead_s
        return max(0.0, least_s - before_most_s) or min(0.0, most_s - before_least_s)

    def answered(self) -> None:
        """Note that Redis has just answered all calls."""
        self._answered = time.monotonic()
