"""How many requests a gateway answers in a second, and how long they take somewhat below that."""

from __future__ import annotations

import itertools
import time

from bench.figures import Row
from bench.gateway.http_client import HttpClient
from bench.gateway.load import Latencies, closed_loop, open_loop
from bench.gateway.overhead import complete
from bench.gateway.stage import CpuTime, Stage, chat_body, images
from bench.gateway.streams import first_text

#: requests in progress that keep all processes busy
_AT_ONCE = 32
#: seconds of each measurement, and the part of the highest rate at which latencies are told
_FOR_S, _SHARE = 4.0, 0.7

#: requests about images a second, seconds, and tokens, for the bundled model
_TINY_RATE, _TINY_FOR_S, _TINY_TOKENS = 4.0, 8.0, 32


async def echo_row(at: Stage) -> Row:
    """Measure text questions to the echo engine."""
    body = chat_body()
    async with HttpClient(at.url) as http:
        cpu, worker_cpu = CpuTime(at.gateways()), CpuTime([at.worker])
        answered = len(await closed_loop(lambda: complete(http, body), _AT_ONCE, _FOR_S))
        costs = f"{cpu.ms_per(answered):.1f} ms a request, worker {worker_cpu.ms_per(answered):.1f} ms"
        highest = answered / _FOR_S
        below = Latencies([await open_loop(lambda: complete(http, body), _SHARE * highest, _FOR_S)])
    number = max(1, len(at.gateways()) - 1)
    return Row(
        f"gateway: text questions, echo engine, gateway processes: {number}",
        f"{highest:.0f}/s with {_AT_ONCE} at once; at {_SHARE * highest:.0f}/s {below}",
        f"CPU time: {costs}",
        "",
        True,
    )


async def bundled_rows(at: Stage) -> list[Row]:
    """Ask the bundled model about images, whole and streamed."""
    contents = images()
    whole = itertools.cycle([chat_body(image, max_tokens=_TINY_TOKENS) for image in contents])
    streamed = itertools.cycle([chat_body(image, max_tokens=_TINY_TOKENS, stream=True) for image in contents])
    firsts: list[float] = []
    async with HttpClient(at.url) as http:

        async def stream() -> None:
            began = time.monotonic()
            _, first = await first_text(http, next(streamed))
            firsts.append(first - began)

        answers = Latencies([await open_loop(lambda: complete(http, next(whole)), _TINY_RATE, _TINY_FOR_S)])
        streams = Latencies([await open_loop(stream, _TINY_RATE, _TINY_FOR_S)])
    what = f"gateway: bundled model, questions about images, {_TINY_RATE:g} a second"
    return [
        Row(f"{what}, whole answers", str(answers), "", "", True),
        Row(f"{what}, streamed", f"first token {Latencies([firsts])}; whole answer {streams}", "", "", True),
    ]
