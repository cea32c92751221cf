"""Reads JSON bodies without trusting them: neither deep nesting nor millions of values cost more than a refusal.

FastAPI's own reading parses on the event loop, and 64 MB of `[],[],...` become gigabytes of empty lists.
"""

from __future__ import annotations

from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from producer.gateway.errors import InvalidRequest

#: JSON values in a body, about: brackets, braces and commas, those in strings too
MAX_VALUES = 500_000
#: escapes in strings are dear to read
_MAX_ESCAPES = 4_000_000

#: a larger body is parsed in a thread
_INLINE_BYTES = 64 * 2**10

#: bytes that are counted at once: other threads may run in between
_SLICE = 2**20


async def read_json(request: Request) -> object:
    """Return the parsed body; its size is limited by the route. Raises InvalidRequest."""
    body = await request.body()
    if len(body) <= _INLINE_BYTES:
        return parse_json(body)
    return await run_in_threadpool(parse_json, body)


def parse_json(body: bytes) -> object:
    """Parse JSON of a stranger. Raises InvalidRequest, which quotes nothing of it."""
    if _count(body, b"[", b"{", b",") > MAX_VALUES or _count(body, b"\\") > _MAX_ESCAPES:
        raise InvalidRequest(f"the body has more than {MAX_VALUES} values or {_MAX_ESCAPES} escapes")
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError:
        # depth too, of which it allows 200
        raise InvalidRequest("the body is not valid JSON in UTF-8, or nested too deeply", code="invalid_json") from None


def _count(body: bytes, *characters: bytes) -> int:
    starts = range(0, len(body), _SLICE)
    return sum(body.count(each, start, start + _SLICE) for start in starts for each in characters)
