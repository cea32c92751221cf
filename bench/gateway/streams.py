"""When the first word of a streamed answer is at the HTTP client, after the echo engine has made it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from bench.figures import Row
from bench.gateway.http_client import HttpClient
from bench.gateway.load import Latencies, closed_loop
from bench.gateway.stage import Stage, chat_body

#: ms at p50, and seconds of measurement
_WANTED_MS, _FOR_S = 20.0, 6.0
#: streams at once, and how long each lasts
_LOADS = ((1, 0.1), (50, 1.0))


async def rows(at: Stage, journal: Path) -> list[Row]:
    """Measure one stream at a time, and many at once; `journal` is the echo engine's."""
    async with HttpClient(at.url) as http:
        return [await _row(http, journal, *load) for load in _LOADS]


async def _row(http: HttpClient, journal: Path, at_once: int, delay_s: float) -> Row:
    body = chat_body(stream=True, metadata={"echo_delay_s": str(delay_s)})
    first_at: dict[str, float] = {}

    async def read() -> None:
        id, at = await first_text(http, body)
        first_at[id] = at

    await closed_loop(read, at_once, _FOR_S)
    made_at = _entered(journal)
    found = Latencies([[at - made_at[id] for id, at in first_at.items()]])
    many = f"{at_once} streams at once" if at_once > 1 else "one stream at a time"
    return Row(
        f"gateway: first word at the client after the echo engine made it, {many}, {len(first_at)} streams",
        str(found),
        "",
        f"at most {_WANTED_MS:g} ms at p50",
        found.ms(50) <= _WANTED_MS,
    )


async def first_text(http: HttpClient, body: bytes) -> tuple[str, float]:
    """Read a stream to its end; return the job's id, and when its first text came (monotonic)."""
    found = None
    async for data in http.events(body):
        if found is None and b'"content":"' in data and (text := _text(data)):
            found = text, time.monotonic()
    if found is None or data != b"[DONE]":
        raise RuntimeError(f"a stream without an answer; it ends with {data.decode()}")
    return found


def _text(data: bytes) -> str:
    """Return the id of a chunk that has text; empty if it has none."""
    chunk = json.loads(data)
    return chunk["id"] if any(choice["delta"].get("content") for choice in chunk["choices"]) else ""


def _entered(journal: Path) -> Mapping[str, float]:
    """Return when each prompt entered its slot (monotonic): the engine makes the first word right after that."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    return {line["id"]: line["at"] for line in lines if line["event"] == "start"}
