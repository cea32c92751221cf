"""Who shares the beginnings of prompts with whom."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import cast

import pytest
from redis import Redis

from vqa.fetch.fetcher import Fetcher
from vqa.fetch.settings import FetchSettings
from vqa.images.store import ImageStore
from vqa.jobs.job import Job
from vqa.ledger.records import Header, Lease
from workers.engine.base import Completion, Engine, Prompt
from workers.jobs.answering import Answering
from workers.jobs.image_source import ImageSource
from workers.jobs.leases import Leases
from workers.jobs.permits import Permits
from workers.jobs.text_writer import TextWriter
from workers.media.pool import DecoderPool

LEASE = Lease("a", "token", Header("leased", "bulk", 0, 60_000, 1, 0), b"", 0)


class Listening:
    """An engine that keeps the prompts that it is given, and a pool of decoders for jobs without images."""

    model = "m"
    fit = video_fit = None

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []

    def submit(self, prompt: Prompt) -> Future[Completion]:
        self.prompts.append(prompt)
        future: Future[Completion] = Future()
        future.set_result(Completion("red", "stop", 1, 1))
        return future

    def cancel(self, id: str) -> None:
        pass

    @contextmanager
    def decoded(self, requests: Sequence[object], *_: object) -> Iterator[list[object]]:
        assert not requests
        yield []


@pytest.mark.parametrize(
    ("by_tenant", "salts"), [(True, ["one", "one", "two", ""]), (False, [""] * 4)], ids=["tenant", "none"]
)
def test_jobs_of_other_tenants_have_other_salts_if_the_setting_says_so(
    redis: Redis, by_tenant: bool, salts: list[str]
) -> None:
    listening = Listening()
    answering = Answering(
        "worker",
        ImageSource(ImageStore(redis), Fetcher(FetchSettings(), 1), 1),
        cast(DecoderPool, listening),
        cast(Engine, listening),
        Leases(redis, "worker", 9, {}),
        TextWriter(redis),
        salt_by_tenant=by_tenant,
    )
    for tenant in ("one", "one", "two", None):
        job = Job(id="a", messages=[{"role": "user", "content": "?"}], lane="bulk", tenant=tenant)
        answering.answer(job, LEASE, Permits().next("bulk"), time.monotonic())

    assert [prompt.cache_salt for prompt in listening.prompts] == salts
