"""Points in time as people write them: so long ago, or a date."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

#: a point in time, or how long ago on Redis's clock
Moment = datetime | timedelta

_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_AGO = re.compile("".join(rf"(?:(?P<{name}>\d{{1,9}}){unit})?" for unit, name in _UNITS.items()), re.ASCII)


def parse_moment(text: str) -> Moment:
    """`2h`, `1d12h`, `90s` (w, d, h, m, s in this order), or an ISO date or time, UTC where it names no offset.

    Raises ValueError.
    """
    match = _AGO.fullmatch(text.strip().lower())
    try:
        if match and text.strip():
            return timedelta(**{name: int(number) for name, number in match.groupdict(default="0").items()})
        moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise ValueError("a time is so long ago (2h, 1d12h, 30m) or a date (2026-11-22, 2026-11-22T10:30Z)") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
