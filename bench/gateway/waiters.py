"""Thousands of requests that wait for their answers at the same time in one gateway process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence

from bench.figures import Row
from bench.gateway.http_client import HttpClient
from bench.gateway.load import Ask
from bench.gateway.overhead import complete
from bench.gateway.stage import QUESTION, Stage, chat_body
from bench.gateway.streams import first_text
from producer import AsyncClient, Job

WAITERS, _WANTED_MIB = 2000, 400.0

#: seconds that a blocked slot stays blocked if this program ends, and that a request may take
_BLOCK_S, _TIMEOUT_S = 120, 110


async def rows(at: Stage, slots: int) -> list[Row]:
    """Measure waiting requests, then waiting streams; `slots` are the worker's."""
    whole, streamed = (
        chat_body(stream=stream, metadata={"echo_delay_s": "0.05"}, vqa={"timeout_s": _TIMEOUT_S})
        for stream in (False, True)
    )
    async with HttpClient(at.url) as http, AsyncClient(redis_url=at.redis_url) as client:
        await http.open(WAITERS)
        return [
            await _row(at, client, slots, "requests", lambda: complete(http, whole)),
            await _row(at, client, slots, "streams", lambda: first_text(http, streamed)),
        ]


async def _row(at: Stage, client: AsyncClient, slots: int, what: str, ask: Ask) -> Row:
    blockers = [_job(echo_delay_s=str(_BLOCK_S)) for _ in range(slots)]
    await client.submit_many(blockers)
    await _wait_for_open(client, slots)
    started = time.monotonic()
    waiting = [asyncio.ensure_future(ask()) for _ in range(WAITERS)]
    at_once = await _wait_for_open(client, slots + WAITERS, waiting) - slots
    accepted, mib = time.monotonic(), _mib(at)
    for job in blockers:
        await client.cancel(job.id)
    rest = asyncio.gather(*waiting, return_exceptions=True)
    while not rest.done():
        mib = max(mib, _mib(at))
        await asyncio.wait([rest], timeout=0.2)
    lost = [error for error in await rest if isinstance(error, Exception)]
    answered = time.monotonic()
    return Row(
        f"gateway: {WAITERS:,} {what} wait at once in one process, echo engine",
        f"{at_once:,} at once, {len(lost)} lost, {mib:.0f} MiB resident; accepted within {accepted - started:.1f} s, "
        f"answered within {answered - accepted:.1f} s{_first(lost)}",
        "",
        f"{WAITERS:,} at once, 0 lost, at most {_WANTED_MIB:g} MiB",
        at_once == WAITERS and not lost and mib <= _WANTED_MIB,
    )


def _job(**metadata: str) -> Job:
    return Job(messages=[{"role": "user", "content": QUESTION}], metadata=metadata, timeout_s=_BLOCK_S)


async def _wait_for_open(client: AsyncClient, number: int, waiting: Sequence[asyncio.Future[object]] = ()) -> int:
    """Wait until so many jobs are open, or until a request has ended; return how many are."""
    while (found := sum((await client.counts())["interactive"].values())) < number:
        if any(each.done() for each in waiting):
            break
        await asyncio.sleep(0.2)
    return found


def _mib(at: Stage) -> float:
    return float(sum(each.memory_info().rss for each in at.gateways()) / 2**20)


def _first(lost: list[Exception]) -> str:
    return f"; the first loss: {json.dumps(str(lost[0])[:200])}" if lost else ""
