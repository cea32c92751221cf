"""How often and how soon a job is tried again."""

from __future__ import annotations

from pydantic import Field

from vqa.frozen_model import Frozen


class RetryPolicy(Frozen):
    """How often a job is retried after a transient error, and after which delays.

    The delay before attempt n + 1 is drawn from 0 to min(cap_s, base_s * 2**(n - 1)): full jitter, as in "Exponential
    Backoff And Jitter" (AWS Architecture Blog, 2015).
    """

    attempts: int = Field(default=3, ge=1, le=100)
    base_s: float = Field(default=1.0, ge=0, le=86_400)
    cap_s: float = Field(default=60.0, ge=0, le=86_400)

    def longest_delay_s(self, attempt: int) -> float:
        """Return the upper bound of the delay after attempt number `attempt` (from 1)."""
        # 2**63 exceeds any cap; a much larger exponent would overflow a float
        return min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 63))
