"""What a request over HTTP takes, and what the same takes through the client library: both alternate in one run."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

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
    http, library = _Runs(over_http, at.gateways()), _Runs(by_client, [psutil.Process()])
    for seed in range(load.repeats):
        # the first of two may find caches cold, so each is it in turn
        for runs in (http, library)[:: 1 if seed % 2 else -1]:
            await runs.add(load, seed)
    # of runs that followed each other: the load on the machine changes
    added = statistics.median(
        ours - theirs for ours, theirs in zip(http.medians_ms(), library.medians_ms(), strict=True)
    )
    return Row(
        f"gateway: {what}, {load.rate:g} requests/s, echo engine",
        f"{added:+.1f} ms at p50: {http}",
        f"client library: {library}",
        f"at most {ADDED_MS:+g} ms at p50",
        added <= ADDED_MS,
    )


class _Runs:
    """Runs of one kind of request, and the CPU time of the processes that stand for the client library."""

    def __init__(self, ask: Ask, processes: Sequence[psutil.Process]) -> None:
        self._ask = ask
        self._processes = processes
        self._seconds: list[Sequence[float]] = []
        self._cpu_ms: list[float] = []

    async def add(self, load: Load, seed: int) -> None:
        cpu = CpuTime(self._processes)
        self._seconds.append(await open_loop(self._ask, load.rate, load.for_s, seed))
        self._cpu_ms.append(cpu.ms_per(len(self._seconds[-1])))

    def medians_ms(self) -> list[float]:
        return [Latencies([run]).ms(50) for run in self._seconds]

    def __str__(self) -> str:
        return f"{Latencies(self._seconds)}; {statistics.median(self._cpu_ms):.1f} ms of CPU time a request"


async def complete(http: HttpClient, body: bytes) -> None:
    """Ask, and check that there is an answer."""
    if not json.loads(await http.post(body))["choices"][0]["message"]["content"]:
        raise RuntimeError("an answer without text")
