"""When an event is tried again: the schedule that Standard Webhooks proposes, until a good day has passed."""

from __future__ import annotations

import random

#: seconds before the second attempt, the third, and so on; 27.6 h in all
DELAYS_S = (5, 300, 1800, 7200, 18_000, 36_000, 36_000)

#: so that receivers that were away do not get everything at once
_JITTER = 0.2

#: a receiver cannot put it off for longer
_LONGEST_S = 86_400.0


def delay_s(attempt: int, retry_after_s: float | None = None) -> float | None:
    """Return the seconds until the attempt after number `attempt` (from 1), at least those that the receiver asks for.

    Returns None if that was the last.
    """
    if attempt > len(DELAYS_S):
        return None
    own = DELAYS_S[attempt - 1] * random.uniform(1, 1 + _JITTER)
    return max(own, min(retry_after_s or 0.0, _LONGEST_S))
