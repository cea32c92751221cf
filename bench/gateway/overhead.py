"""What a request over HTTP takes, and what the same takes through the client library: both alternate in one run."""

from __future__ import annotations

import itertools
import json
import statistics
from dataclasses import dataclass

from bench.figures import Row
from bench.gateway.http_client import HttpClient
from bench.gateway.load import Ask, Latencies, open_loop
from bench.gateway.stage import QUESTION, CpuTime, Stage, chat_body, images
from producer import AsyncClient, Job

#: ms that the gateway may add at p50
ADDED_MS = 5.0


@dataclass(frozen=True)
class Load:
    """Requests per second, seconds and number of runs."""

    rate: float
    for_s: float = 4.0
    repeats: int = 3


async def rows(at: Stage, text: Load, image: Load) -> list[Row]:
    """Measure a text question and a question about an image."""
    async with HttpClient(at.url) as http, AsyncClient(redis_url=at.redis_url) as client:
        body = chat_body()

        async def ask_text() -> None:
            await client.answer(await client.submit(Job(messages=[{"role": "user", "content": QUESTION}])))

        all_images = images()
        bodies, contents = itertools.cycle([chat_body(each) for each in all_images]), itertools.cycle(all_images)
        size_kb = len(all_images[0]) // 1000
        return [
            await _row(at, "a text question", text, lambda: complete(http, body), ask_text),
            await _row(
                *(at, f"a question about an image of {size_kb} kB", image),
                *(lambda: complete(http, next(bodies)), lambda: client.ask(next(contents), QUESTION)),
            ),
        ]


async def _row(at: Stage, what: str, load: Load, over_http: Ask, by_client: Ask) -> Row:
    ours: list[list[float]] = []
    direct: list[list[float]] = []
    cpu_ms: list[float] = []
    for seed in range(load.repeats):
        # the first of two may find caches cold, so each is it in turn
        for ask, runs in ((over_http, ours), (by_client, direct))[:: 1 if seed % 2 else -1]:
            cpu = CpuTime(at.gateways())
            runs.append(await open_loop(ask, load.rate, load.for_s, seed))
            if ask is over_http:
                cpu_ms.append(cpu.ms_per(len(runs[-1])))
    http, library = Latencies(ours), Latencies(direct)
    # of runs that followed each other: the load on the machine changes
    added = statistics.median(Latencies([a]).ms(50) - Latencies([b]).ms(50) for a, b in zip(ours, direct, strict=True))
    return Row(
        f"gateway: {what}, {load.rate:g} requests/s, echo engine",
        f"{added:+.1f} ms at p50: {http}; {statistics.median(cpu_ms):.1f} ms of CPU time a request",
        f"client library: {library}",
        f"at most {ADDED_MS:+g} ms at p50",
        added <= ADDED_MS,
    )


async def complete(http: HttpClient, body: bytes) -> None:
    """Ask, and check that there is an answer."""
    if not json.loads(await http.post(body))["choices"][0]["message"]["content"]:
        raise RuntimeError("an answer without text")
