"""Where a job's images come from: the store, or the URLs that the worker's settings allow."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from redis import Redis

from tests.producer.conftest import wait_until
from tests.vqa.fetch.network import Names
from tests.vqa.fetch.site import PNG, Site, repeats, response, says, served
from vqa.errors import BadImage, Cancelled, DeadlineExceeded, ImageMissing, ImageUnavailable
from vqa.fetch.fetcher import Fetcher
from vqa.fetch.settings import FetchSettings
from vqa.images.store import ImageStore
from vqa.net.guarded import GuardedBackend
from workers.jobs.image_source import ImageSource

LIMIT = 10_000


@pytest.fixture
def store(redis: Redis) -> ImageStore:
    return ImageStore(redis)


@pytest.fixture
def source(store: ImageStore) -> Iterator[ImageSource]:
    settings = FetchSettings(hosts="http://127.0.0.1:*,http://localhost:*", private=True, timeout_s=5, first_byte_s=5)
    with closing(ImageSource(store, Fetcher(settings, LIMIT), LIMIT)) as source:
        yield source


def test_names_are_read_from_the_store_and_urls_are_fetched(source: ImageSource, store: ImageStore) -> None:
    site = Site()
    stored = store.put(b"stored", 60)
    with served(site):
        url = f"http://127.0.0.1:{site.port}/a.png"
        with source.opened([stored, url, b"bytes", url], time.monotonic() + 30) as fetch:
            assert (fetch(stored), fetch(url), fetch(url)) == (b"stored", PNG, PNG)
            with pytest.raises(ImageMissing):
                fetch("sha256:" + "0" * 64)
        assert len(site.requests) == 1
        # the next job gets what is there then
        site.replies = [says(response(PNG + b"2"))]
        with source.opened([url], time.monotonic() + 30) as fetch:
            assert fetch(url) == PNG + b"2"


def test_a_jobs_urls_are_fetched_side_by_side(source: ImageSource) -> None:
    async def slow(head: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        await says(response())(head, writer)

    site = Site(slow)
    with served(site):
        urls = [f"http://127.0.0.1:{site.port}/{number}" for number in range(6)]
        with source.opened(urls, time.monotonic() + 30) as fetch:
            assert [fetch(url) for url in urls] == [PNG] * 6
    assert site.peak == 6


def test_one_bad_url_fails_the_job_without_waiting_for_the_others(source: ImageSource) -> None:
    slow, bad = Site(repeats(response(Content_Length="5000"), b"", 0.05)), Site(says(response(b"", "404 x", None)))
    with served(slow, bad):
        started = time.monotonic()
        with (
            pytest.raises(BadImage, match="HTTP 404"),
            source.opened([f"http://127.0.0.1:{site.port}/" for site in (slow, bad)], time.monotonic() + 30),
        ):
            pass
        assert time.monotonic() - started < 3


def test_the_jobs_deadline_ends_the_wait(source: ImageSource) -> None:
    site = Site(repeats(b"", b"", 0.05))
    with served(site):
        opened = source.opened([f"http://127.0.0.1:{site.port}/"], time.monotonic() + 0.1)
        with pytest.raises(DeadlineExceeded, match="while its images were fetched"):
            opened.__enter__()


def test_without_a_setting_the_url_is_refused_and_the_setting_named(store: ImageStore) -> None:
    with closing(ImageSource(store, Fetcher(FetchSettings(), LIMIT), LIMIT)) as source:
        for url in ("https://images.example/a.png", "http://127.0.0.1/"):
            with pytest.raises(BadImage, match="VQA_FETCH_HOSTS"):
                source.opened([url], time.monotonic() + 30).__enter__()
        with pytest.raises(BadImage, match="VQA_FETCH_BUCKETS"):
            source.opened(["s3://bucket/a.png"], time.monotonic() + 30).__enter__()


def test_a_caller_of_many_slow_servers_leaves_places_for_others(store: ImageStore) -> None:
    slow, fast, gone = Site(repeats(b"", b"", 0.05)), Site(), threading.Event()
    names = Names({f"{name}.example": [["127.0.0.1"]] for name in ("fast", *range(11))})
    fetcher = Fetcher(FetchSettings(hosts="http://*:*", private=True), LIMIT, GuardedBackend(True, names))
    with closing(ImageSource(store, fetcher, LIMIT)) as source, served(slow, fast), ThreadPoolExecutor(1) as thread:
        urls = [f"http://{number % 11}.example:{slow.port}/{number}" for number in range(64)]
        opened = source.opened(urls, time.monotonic() + 60, lambda: not gone.is_set(), "one")
        waiting = thread.submit(opened.__enter__)
        wait_until(lambda: slow.running == 32, "half of the places are taken")
        url = f"http://fast.example:{fast.port}/"
        with source.opened([url], time.monotonic() + 10, caller="another") as fetch:
            assert fetch(url) == PNG
        gone.set()
        assert isinstance(waiting.exception(10), Cancelled)


def test_images_of_one_job_have_a_limit_together(source: ImageSource) -> None:
    site = Site(says(response(PNG + bytes(8000))))
    with served(site):
        urls = [f"http://127.0.0.1:{site.port}/{number}" for number in range(80)]
        with pytest.raises(BadImage, match=r"over 640,000 bytes in all.*VQA_IMAGE_MAX_BYTES"):
            source.opened(urls, time.monotonic() + 30).__enter__()
        # what was held is free again
        with source.opened(urls[:60], time.monotonic() + 30) as fetch:
            assert len(fetch(urls[0])) == len(PNG) + 8000


def test_a_job_whose_servers_are_slow_takes_no_memory_from_others(source: ImageSource) -> None:
    slow, fast = Site(repeats(response(Content_Length="5000"), b"a", 0.05)), Site()
    gone = threading.Event()
    with served(slow, fast), ThreadPoolExecutor(1) as thread:
        urls = [f"http://127.0.0.1:{slow.port}/{number}" for number in range(64)]
        waiting = thread.submit(source.opened(urls, time.monotonic() + 60, lambda: not gone.is_set()).__enter__)
        wait_until(lambda: slow.running, "the slow server is asked")
        with source.opened([f"http://localhost:{fast.port}/"], time.monotonic() + 60) as fetch:
            assert fetch(f"http://localhost:{fast.port}/") == PNG
            assert not waiting.done()
        gone.set()
        with pytest.raises(Cancelled):
            waiting.result(timeout=10)


def test_what_jobs_hold_while_their_images_come_is_bounded(source: ImageSource) -> None:
    let_go = threading.Event()

    async def last_is_held(head: bytes, writer: asyncio.StreamWriter) -> None:
        while b"/held" in head and not let_go.is_set():
            await asyncio.sleep(0.01)
        await says(response(PNG + bytes(8000)))(head, writer)

    site = Site(last_is_held)
    with served(site), ThreadPoolExecutor(2) as threads:
        urls = [f"http://127.0.0.1:{site.port}/{number}" for number in range(60)]
        held = f"http://localhost:{site.port}/held"
        try:
            first = threads.submit(source.opened([*urls, held], time.monotonic() + 30).__enter__)
            wait_until(lambda: len(site.requests) == 61, "all but one are there")
            with pytest.raises(ImageUnavailable, match="memory"):
                source.opened([f"{url}b" for url in urls], time.monotonic() + 30).__enter__()
        finally:
            let_go.set()
        assert len(first.result(timeout=10)(held)) == len(PNG) + 8000


def test_a_job_that_is_not_wanted_any_more_ends_its_fetches(source: ImageSource) -> None:
    slow = Site(repeats(response(Content_Length="5000"), b"a", 0.05))
    gone = threading.Event()
    with served(slow), ThreadPoolExecutor(1) as thread:
        url = f"http://127.0.0.1:{slow.port}/"
        waiting = thread.submit(source.opened([url], time.monotonic() + 30, lambda: not gone.is_set()).__enter__)
        wait_until(lambda: slow.running, "the slow server is asked")
        gone.set()
        with pytest.raises(Cancelled):
            waiting.result(timeout=3)
        wait_until(lambda: not slow.running, "the connection is closed", timeout_s=3)


def test_closing_ends_the_wait(source: ImageSource) -> None:
    source.close()
    with pytest.raises(ImageUnavailable, match="stopping"):
        source.opened(["http://127.0.0.1:1/"], time.monotonic() + 30).__enter__()
