"""Bytes of Redis for a job in each of its states, by how its used memory grows with many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from redis import Redis

from bench.media.images import photo
from bench.scaling.figures import Found, Spread
from producer import Client, Job
from producer.demo.redis_server import EmbeddedRedis
from vqa.answer import Answer, Timings, Usage
from vqa.celery import make_app
from vqa.jobs.lane import Lane
from vqa.ledger.batches import Batches
from vqa.ledger.commands import accept_command, entry_key, outcome_key
from vqa.ledger.ledger import Ledger
from vqa.ledger.records import Ending
from vqa.results import encode
from vqa.settings import Limits

COUNTS = (10_000, 100_000)
_CHUNK = 1000
_QUESTION = "What colour is the circle?"
#: 64 tokens
_TEXT = "The circle in the middle of the picture is red. " * 6
_BATCH = "measured"
_TTL_S = 86_400


@dataclass(frozen=True)
class _Kind:
    """Jobs of one kind: the first one as it was submitted."""

    id: str
    lane: Lane
    payload: bytes
    message: bytes

    @classmethod
    def submitted(cls, client: Client, redis: Redis, job: Job) -> _Kind:
        redis.flushdb()
        id = client.submit(job)
        entry, [message] = redis.get(entry_key(id)), redis.lrange(job.lane, 0, -1)
        assert isinstance(entry, bytes)
        assert isinstance(message, bytes)
        return cls(id, job.lane, entry.partition(b"\n")[2], message)

    def renamed(self, text: bytes, id: str) -> bytes:
        return text.replace(self.id.encode(), id.encode())


def measure(counts: Iterable[int] = COUNTS) -> Found:
    """Return bytes for a job, by state; each figure's runs are those of `counts`."""
    found: dict[str, list[float]] = {}
    with (
        EmbeddedRedis() as server,
        Client(redis_url=server.url) as client,
        Redis.from_url(server.url, socket_timeout=60) as redis,
    ):
        app = make_app(client.settings)
        text: Any = [{"role": "user", "content": _QUESTION}]
        kinds = {
            "a text question": Job(messages=text),
            "a question about an image": Job.about(photo(1, 64, 48), _QUESTION),
            "a bulk row about an image": Job.about(photo(1, 64, 48), _QUESTION, lane="bulk"),
        }
        for name, job in kinds.items():
            kind = _Kind.submitted(client, redis, job)
            for count in counts:
                for state, size in _states(redis, app, kind, count):
                    found.setdefault(f"{name}, {state}", []).append(size)
    return {what: Spread(runs) for what, runs in found.items()}


def _states(redis: Redis, app: Any, kind: _Kind, count: int) -> Iterator[tuple[str, float]]:
    redis.flushdb()
    if kind.lane == "bulk":
        Batches(redis).create(_BATCH, "bulk")
    ids = [f"{kind.id[:-7]}{number:07}" for number in range(count)]
    ledger = Ledger(redis, Limits(open_jobs=2**53))

    def grown(fill: Callable[[list[str]], object]) -> float:
        before = redis.info("memory")["used_memory"]
        for start in range(0, count, _CHUNK):
            fill(ids[start : start + _CHUNK])
        return float(redis.info("memory")["used_memory"] - before) / count

    accepted = grown(lambda some: _accept(redis, ledger, kind, some))
    yield ("waiting, its row in a detached batch included" if kind.lane == "bulk" else "queued"), accepted
    if kind.lane == "interactive":
        yield (
            "its message on the list besides",
            grown(lambda some: redis.lpush("interactive", *(kind.renamed(kind.message, id) for id in some))),
        )
        redis.delete("interactive")
    yield "MEMORY USAGE of its entry alone", float(redis.memory_usage(entry_key(ids[0])) or 0)
    base = redis.info("memory")["used_memory"]
    _close(ledger, app, ids)
    left = (redis.info("memory")["used_memory"] - base) / count + accepted
    yield "finished, its answer of 64 tokens kept", left
    yield "MEMORY USAGE of its answer alone", float(redis.memory_usage(outcome_key(ids[0])) or 0)


def _accept(redis: Redis, ledger: Ledger, kind: _Kind, ids: list[str]) -> None:
    batch = _BATCH if kind.lane == "bulk" else None
    ledger.accept_many(
        accept_command(id, kind.lane, kind.renamed(kind.payload, id), _TTL_S, "", Limits(open_jobs=2**53), batch=batch)
        for id in ids
    )
    if batch:
        batches = Batches(redis)
        batches.add_rows(_BATCH, redis.llen(f"vqa:batch:{_BATCH}:rows"), [(id, f"{id}.jpg") for id in ids])


def _close(ledger: Ledger, app: Any, ids: list[str]) -> None:
    for start in range(0, len(ids), _CHUNK):
        ledger.close_many(
            [Ending(id, "", encode(app.backend, id, _answer(id)), _TTL_S) for id in ids[start : start + _CHUNK]]
        )


def _answer(id: str) -> Answer:
    timings = Timings(queued_s=0.063, media_s=0.0132, engine_s=1.4031, total_s=1.501)
    return Answer(
        id=id,
        text=_TEXT,
        finish_reason="stop",
        usage=Usage(prompt_tokens=794, completion_tokens=64),
        timings=timings,
        model="Qwen/Qwen3-VL-30B-A3B-Instruct",
        worker="card0@gpu-host-1",
        attempt=1,
    )
