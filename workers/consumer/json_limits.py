"""Limits on JSON from others: it may be cheap to send and dear to parse. No I/O.

26 MiB of tiny lists took 15 s and gigabytes; as much base64 in one string takes a tenth of a second.
"""

from __future__ import annotations

from typing import Any

from kombu.utils import json as kombu_json

#: commas, and opening brackets, of JSON that is parsed. The text of the longest question may contain as many commas
MAX_COMMAS, MAX_BRACKETS = 1_000_000, 200_000

#: nesting of JSON that Celery handles. A job needs eight levels; Celery decodes deeper in the stack, where more may
#: overflow it
MAX_DEPTH = 32

#: bytes of a broadcast message, which names a command and some ids
MAX_BROADCAST = 2**20


def has_too_many_parts(raw: bytes) -> bool:
    """Return whether parsing this JSON would take too long."""
    return raw.count(b",") > MAX_COMMAS or raw.count(b"[") + raw.count(b"{") > MAX_BRACKETS


def is_too_deep(value: object, levels: int = MAX_DEPTH) -> bool:
    """Return whether a parsed value is nested more than `levels` deep."""
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(is_too_deep(part, levels - 1) for part in parts)


def broadcast_flaw(raw: object) -> str | None:
    """Say why a message of a broadcast channel must not reach Celery; None if it may."""
    if not isinstance(raw, bytes):
        return "it is no text"
    if len(raw) > MAX_BROADCAST:
        return f"it has {len(raw)} bytes, more than {MAX_BROADCAST}"
    try:
        # as kombu will, whose JSON has types that raise errors of many kinds
        message: Any = kombu_json.loads(raw.decode())
    except Exception:
        return "it is not JSON"
    if not isinstance(message, dict):
        return "it is not a JSON object"
    return "it is nested too deeply" if is_too_deep(message) else None
