"""W1 through Redis and Celery: this process submits and waits, worker processes answer."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.engine.report import Report
from bench.engine.routing import Routing
from bench.engine.work import Stock
from bench.stage import worker
from producer import Answer, AsyncClient, Client, Job
from producer.demo.redis_server import EmbeddedRedis
from vqa.errors import SettingsError
from workers.cards import card_environment, requested_cards
from workers.tune.trial import Question

_TIMEOUT_S = 600.0


def cards_for(workers: int) -> list[dict[str, str]]:
    """Return each worker's environment: a card of its own, or none if the machine has none. Raises SettingsError."""
    present = requested_cards("")
    if present == [()]:
        return [card_environment(())] * workers
    if len(present) < workers:
        raise SettingsError(f"{workers} workers need a card each, but this machine has {len(present)}")
    return [card_environment(cards) for cards in present[:workers]]


@dataclass(frozen=True)
class Fleet:
    """Settings that all workers of a run share."""

    folder: Path
    engine: str
    routing: Routing
    slots: int
    slot_tokens: int

    @property
    def environment(self) -> dict[str, str]:
        return {
            # VQA_ variables of this process hold for its workers too
            **{name: value for name, value in os.environ.items() if name.startswith("VQA_")},
            "VQA_MODEL": str(self.folder),
            "VQA_SLOTS": str(self.slots),
            "VQA_SLOT_TOKENS": str(self.slot_tokens),
            "BENCH_ENGINE": self.engine,
            "BENCH_ROUTING": self.routing,
        }


class ThroughCelery:
    """A context manager: a Redis server and workers, which stay until the end."""

    def __init__(self, fleet: Fleet, report: Report) -> None:
        self._fleet = fleet
        self._report = report
        self._open = ExitStack()
        self._workers = 0

    def __enter__(self) -> Self:
        server = self._open.enter_context(EmbeddedRedis())
        self._client = self._open.enter_context(Client(redis_url=server.url))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.__exit__(kind, error, at)

    def rates(self, workers: int, stock: Stock, repeats: int) -> list[float]:
        """Return the jobs per second of each repeat, with one card and one stock of questions per worker."""
        for number, card in list(enumerate(cards_for(workers)))[self._workers :]:
            self._report.say(f"starting worker {number + 1}")
            variables = {**self._fleet.environment, "VQA_REDIS_URL": self._client.settings.redis_url, **card}
            self._open.enter_context(
                worker(self._client, app="bench.engine.shape_worker", name=f"bench{number}", **variables)
            )
        self._workers = workers
        self._report.say("ready")
        _ask(self._client, stock.take(self._fleet.slots * workers, tokens=4))
        measured = []
        for _ in range(repeats):
            measured.append(_ask(self._client, stock.take(stock.count * workers)))
            self._report.say(f"through Celery, {workers} workers: {measured[-1]:.2f} jobs/s")
        return measured

    def rate(self, questions: Sequence[Question]) -> float:
        """Return the jobs per second of these questions, with the workers that are there."""
        rate = _ask(self._client, questions)
        self._report.say(f"through Celery: {len(questions)} jobs, {rate:.2f} jobs/s")
        return rate

    def streamed_rates(self, stock: Stock, repeats: int) -> list[float]:
        """Do as `rates` with the workers that are there; every answer is streamed to this process."""
        measured = []
        for _ in range(repeats):
            rate, first_s = asyncio.run(_stream_all(self._client.settings.redis_url, stock.take(stock.count)))
            measured.append(rate)
            self._report.say(f"streamed: {rate:.2f} jobs/s, first text after {first_s:.2f} s (median)")
        return measured


def _job(question: Question) -> Job:
    return Job.about(question.image, question.text, lane="bulk", max_new_tokens=question.max_new_tokens)


async def _stream_all(url: str, questions: Sequence[Question]) -> tuple[float, float]:
    """Return jobs per second, and the median seconds from the start to the first text of an answer."""
    firsts: list[float] = []
    started = time.perf_counter()

    async def one(client: AsyncClient, question: Question) -> None:
        first = True
        async with client.stream(_job(question)) as stream:
            async for _ in stream:
                if first:
                    firsts.append(time.perf_counter() - started)
                first = False

    async with AsyncClient(redis_url=url) as client:
        await asyncio.gather(*(one(client, question) for question in questions))
    return len(questions) / (time.perf_counter() - started), statistics.median(firsts)


def _ask(client: Client, questions: Sequence[Question]) -> float:
    """Return jobs per second, from the first submission to the last answer."""
    started = time.perf_counter()
    ids = client.submit_many(map(_job, questions))
    for _, outcome in client.answers(ids, timeout_s=_TIMEOUT_S):
        if not isinstance(outcome, Answer):
            raise outcome
    return len(questions) / (time.perf_counter() - started)
