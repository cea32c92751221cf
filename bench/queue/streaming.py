"""From the engine's piece of text to the client that reads it in another process; and what a stream costs Redis."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import redis

from bench.figures import Row
from bench.stage import worker
from producer import AsyncClient, Client, Job
from producer.demo.redis_server import EmbeddedRedis
from vqa.ledger.text_stream import stream_key

#: seconds that the engine takes for each answer, of 100 pieces
SECONDS = 1.0
ROUNDS = 5

#: when a number of characters was there
Times = list[tuple[float, int]]


def rows() -> list[Row]:
    with EmbeddedRedis() as server, Client(redis_url=server.url) as client, tempfile.TemporaryDirectory() as folder:
        pieces = Path(folder) / "pieces"
        settings = {"VQA_ENGINE": "echo", "VQA_SLOTS": "128", "BENCH_PIECES": str(pieces)}
        with worker(client, "bench.queue.streaming_worker", **settings):
            asyncio.run(_read(client, 1))
            one = _delays(pieces, asyncio.run(_rounds(client, 1, 4 * ROUNDS)))
            many = _delays(pieces, asyncio.run(_rounds(client, 100, ROUNDS)))
            size, entries = _bytes(client, server.url)
    return [
        _row("first piece, one stream", one[0], 0.02),
        _row("any piece, one stream", one[1], 0.06),
        _row("first piece, 100 streams at once", many[0], 0.1),
        _row("any piece, 100 streams at once", many[1], 0.15),
        Row("Redis for a streamed answer's text", f"{size:,} bytes, {entries} entries", "400 characters", "", True),
    ]


def _row(what: str, delays: Sequence[float], most_s: float) -> Row:
    p50, p95 = (sorted(delays)[round(share * (len(delays) - 1))] for share in (0.5, 0.95))
    figure = f"p50 {1000 * p50:.1f} ms, p95 {1000 * p95:.1f} ms ({len(delays)})"
    return Row(f"engine to client: {what}", figure, "", f"p50 under {1000 * most_s:g} ms", p50 < most_s)


def _job() -> Job:
    content = [{"role": "user", "content": "What colour is the circle?"}]
    return Job(messages=content, metadata={"echo_delay_s": str(SECONDS)})


async def _rounds(client: Client, streams: int, rounds: int) -> Mapping[str, Times]:
    read: dict[str, Times] = {}
    for _ in range(rounds):
        read |= await _read(client, streams)
    return read


async def _read(client: Client, streams: int) -> Mapping[str, Times]:
    read: dict[str, Times] = defaultdict(list)

    async def follow(own: AsyncClient) -> None:
        async with own.stream(_job()) as stream:
            characters = 0
            async for piece in stream:
                characters += len(piece.text)
                read[stream.id].append((time.monotonic(), characters))

    async with AsyncClient(client.settings) as own:
        await asyncio.gather(*(follow(own) for _ in range(streams)))
    return read


def _delays(pieces: Path, read: Mapping[str, Times]) -> tuple[list[float], list[float]]:
    """Return the delays of the first pieces, and of all."""
    first, all_of_them = [], []
    for line in pieces.read_text().splitlines():
        made, id, characters = line.split()
        if id in read:
            delay = next(at for at, there in read[id] if there >= int(characters)) - float(made)
            all_of_them.append(delay)
            if int(characters) == len("echo:"):
                first.append(delay)
    return first, all_of_them


def _bytes(client: Client, url: str) -> tuple[int, int]:
    """Return the size of a stream just before its end, and how many entries it has."""
    with redis.Redis.from_url(url) as connection, client.stream(_job()) as stream:
        characters, size, entries = 0, 0, 0
        while characters < 380:
            characters += len(next(stream).text)
            size = cast(int, connection.memory_usage(stream_key(stream.id)) or size)
            entries = connection.xlen(stream_key(stream.id)) or entries
        return size, entries
