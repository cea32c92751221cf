"""The header Retry-After (RFC 9110, 10.2.3): when a server wants to be asked again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_s(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Return the seconds that a response asks to wait; None if it does not say so in a form that can be read."""
    value = next((value for name, value in headers if name.lower() == b"retry-after"), b"").decode("latin-1").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
