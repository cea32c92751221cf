"""W1 through Redis and Celery: this process submits and waits, workers of their own processes answer."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.report import Report
from bench.routing import Routing
from bench.stage import worker
from bench.work import Stock
from producer import Answer, Client, Job
from producer.demo.redis_server import EmbeddedRedis
from vqa.errors import SettingsError
from workers.cards import pinned, wanted_cards
from workers.tune.trial import Question

_TIMEOUT_S = 600.0


def cards_for(workers: int) -> list[dict[str, str]]:
    """The environment of each worker: a card of its own, or none where the machine has none. Raises SettingsError."""
    there = wanted_cards("")
    if there == [()]:
        return [pinned(())] * workers
    if len(there) < workers:
        raise SettingsError(f"{workers} workers need a card each, and there are {len(there)}")
    return [pinned(cards) for cards in there[:workers]]


@dataclass(frozen=True)
class Fleet:
    """What every worker of a run is."""

    folder: Path
    engine: str
    routing: Routing
    slots: int
    slot_tokens: int

    @property
    def environment(self) -> dict[str, str]:
        """This benchmark's own settings hold for its workers, too."""
        return {
            **{name: value for name, value in os.environ.items() if name.startswith("VQA_")},
            "VQA_MODEL": str(self.folder),
            "VQA_SLOTS": str(self.slots),
            "VQA_SLOT_TOKENS": str(self.slot_tokens),
            "BENCH_ENGINE": self.engine,
            "BENCH_ROUTING": self.routing,
        }


class ThroughCelery:
    """A context manager: a Redis of its own, and workers on it, more and more."""

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
        """Jobs a second with so many workers, a card each, and so many stocks of questions at once."""
        for number, card in list(enumerate(cards_for(workers)))[self._workers :]:
            self._report.say(f"starting worker {number + 1}")
            variables = {**self._fleet.environment, "VQA_REDIS_URL": self._client.settings.redis_url, **card}
            self._open.enter_context(worker(self._client, app="bench.shape_worker", name=f"bench{number}", **variables))
        self._workers = workers
        self._report.say("ready")
        _ask(self._client, stock.take(self._fleet.slots * workers, tokens=4))
        measured = []
        for _ in range(repeats):
            measured.append(_ask(self._client, stock.take(stock.count * workers)))
            self._report.say(f"through Celery, {workers} workers: {measured[-1]:.2f} jobs/s")
        return measured


def _ask(client: Client, questions: Sequence[Question]) -> float:
    """Jobs a second, from the first submission to the last answer."""
    began = time.perf_counter()
    ids = client.submit_many(
        Job.about(asked.image, asked.words, lane="bulk", max_new_tokens=asked.max_new_tokens) for asked in questions
    )
    for _, outcome in client.answers(ids, timeout_s=_TIMEOUT_S):
        if not isinstance(outcome, Answer):
            raise outcome
    return len(questions) / (time.perf_counter() - began)
