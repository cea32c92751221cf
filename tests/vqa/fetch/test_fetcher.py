"""The fetcher as its callers see it: retries, sharing, limits on how many run at once, its end, and a fork."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tests.vqa.fetch.conftest import LIMIT, MakeFetcher
from tests.vqa.fetch.network import Names
from tests.vqa.fetch.site import PNG, Reply, Site, repeats, response, says, served
from vqa.errors import BadImage, ImageUnavailable, SettingsError
from vqa.fetch.fetcher import Fetcher
from vqa.fetch.places import MOST, MOST_OF_HOST
from vqa.fetch.settings import FetchSettings
from vqa.net.guarded import GuardedBackend


def busy(status: str, **headers: str) -> Reply:
    return says(response(b"", status, None, **headers))


@pytest.mark.parametrize(
    "first",
    [
        busy("503 Service Unavailable"),
        busy("429 Too Many Requests", Retry_After="0"),
        busy("408 Request Timeout"),
        says(close=True),
        says(response(Content_Length="5000"), close=True),
    ],
    ids=["503", "429", "408", "closed", "short"],
)
def test_an_error_of_the_moment_is_tried_again(make_fetcher: MakeFetcher, first: Reply) -> None:
    site = Site(first, says(response()))
    with served(site):
        assert make_fetcher("http://127.0.0.1:*").fetch(f"http://127.0.0.1:{site.port}/") == PNG
    assert len(site.requests) == 2


def test_there_are_three_attempts(make_fetcher: MakeFetcher) -> None:
    site = Site(busy("500 x"), busy("502 x"), busy("503 x"))
    with served(site), pytest.raises(ImageUnavailable, match="HTTP 503"):
        make_fetcher("http://127.0.0.1:*").fetch(f"http://127.0.0.1:{site.port}/")
    assert len(site.requests) == 3


def test_retry_after_is_heeded_as_far_as_there_is_time(make_fetcher: MakeFetcher) -> None:
    site = Site(busy("429 x", Retry_After="1"), says(response()))
    with served(site):
        fetcher = make_fetcher("http://127.0.0.1:*")
        started = time.monotonic()
        assert fetcher.fetch(f"http://127.0.0.1:{site.port}/") == PNG
        assert time.monotonic() - started >= 1
        for later in ("3600", format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)):
            site.replies = [busy("429 x", Retry_After=later)]
            seen, started = len(site.requests), time.monotonic()
            with pytest.raises(ImageUnavailable, match="HTTP 429"):
                fetcher.fetch(f"http://127.0.0.1:{site.port}/")
            assert len(site.requests) == seen + 1
            assert time.monotonic() - started < 1


class Gate:
    """A reply that waits until it is let through."""

    def __init__(self) -> None:
        self.open = threading.Event()

    async def __call__(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        while not self.open.is_set():
            await asyncio.sleep(0.005)
        await says(response())(head, writer)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_callers_of_one_url_share_a_request_and_the_first_may_leave(make_fetcher: MakeFetcher) -> None:
    gate = Gate()
    site = Site(gate)
    with served(site), ThreadPoolExecutor(3) as threads:
        fetcher, url = make_fetcher("http://127.0.0.1:*"), f"http://127.0.0.1:{site.port}/"
        first = fetcher.submit(url)
        wait_until(lambda: site.running == 1)
        others = [threads.submit(fetcher.fetch, url) for _ in range(2)]
        with pytest.raises(ImageUnavailable, match="in the time that is left"):
            fetcher.fetch(url, timeout_s=0.05)
        first.cancel()
        gate.open.set()
        assert [other.result(10) for other in others] == [PNG, PNG]
        assert len(site.requests) == 1
        # it is not kept
        assert fetcher.fetch(url) == PNG
    assert len(site.requests) == 2


def test_a_request_ends_when_its_last_caller_leaves(make_fetcher: MakeFetcher) -> None:
    # an interim response every 10 ms tells the server that its client has gone
    site = Site(repeats(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.01))
    with served(site):
        fetcher, url = (
            make_fetcher("http://127.0.0.1:*", first_byte_s=60, timeout_s=60),
            f"http://127.0.0.1:{site.port}/",
        )
        with pytest.raises(ImageUnavailable):
            fetcher.fetch(url, timeout_s=0.1)

        async def leave() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(fetcher.fetch_async(url), 0.1)
            with pytest.raises(ImageUnavailable, match="in the time that is left"):
                await fetcher.fetch_async(url, timeout_s=0.1)

        asyncio.run(leave())
        wait_until(lambda: site.running == 0)
        assert len(site.requests) == 3


def test_a_host_gets_six_requests_at_once_and_a_caller_32() -> None:
    gate = Gate()
    sites = [Site(gate) for _ in range(2)]
    names = Names({f"{name}.example": [["127.0.0.1"]] for name in ("busy", *range(20))})
    settings = FetchSettings(hosts="http://*:*", private=True)
    with served(*sites), closing(Fetcher(settings, LIMIT, GuardedBackend(True, names))) as fetcher:
        urls = [f"http://busy.example:{sites[0].port}/{number}" for number in range(20)]
        others = [f"http://{number % 20}.example:{sites[1].port}/{number}" for number in range(60)]
        futures = [fetcher.submit(url) for url in urls]
        wait_until(lambda: sites[0].running == MOST_OF_HOST)
        futures += [fetcher.submit(url) for url in others]
        wait_until(lambda: sites[1].running == MOST // 2 - MOST_OF_HOST)
        # another one does not wait for them
        another = fetcher.submit(f"http://0.example:{sites[1].port}/another", "another")
        wait_until(lambda: sites[1].running == MOST // 2 - MOST_OF_HOST + 1)
        gate.open.set()
        assert [future.result(20) for future in (*futures, another)] == [PNG] * 81
    assert (sites[0].peak, sites[1].peak <= MOST) == (MOST_OF_HOST, True)


def test_closing_ends_what_is_under_way(make_fetcher: MakeFetcher) -> None:
    site = Site(Gate())
    with served(site), ThreadPoolExecutor(1) as threads:
        fetcher, url = make_fetcher("http://127.0.0.1:*"), f"http://127.0.0.1:{site.port}/"
        waiting = threads.submit(fetcher.fetch, url)
        wait_until(lambda: site.running == 1)
        fetcher.close()
        with pytest.raises(ImageUnavailable, match="stopping"):
            waiting.result(10)
        with pytest.raises(ImageUnavailable, match="stopping"):
            fetcher.fetch(url)
        fetcher.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_fetches_with_a_thread_of_its_own(make_fetcher: MakeFetcher) -> None:
    site = Site()
    with served(site):
        fetcher, url = make_fetcher("http://127.0.0.1:*"), f"http://127.0.0.1:{site.port}/"
        assert fetcher.fetch(url) == PNG
        child = os.fork()
        if not child:
            os._exit(0 if fetcher.fetch(url, timeout_s=10) == PNG else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert fetcher.fetch(url) == PNG


def test_without_settings_nothing_is_fetched_and_the_setting_is_named() -> None:
    fetcher = Fetcher(FetchSettings(), 10)
    for url, setting in (
        ("https://images.example/", "VQA_FETCH_HOSTS"),
        ("http://127.0.0.1/", "VQA_FETCH_HOSTS"),
        ("s3://bucket/key", "VQA_FETCH_BUCKETS"),
    ):
        with pytest.raises(BadImage, match=setting):
            fetcher.check(url)
        with pytest.raises(BadImage, match=setting):
            fetcher.fetch(url)
    with pytest.raises(BadImage, match="VQA_FETCH_ROOTS"):
        fetcher.fetch("file:///etc/passwd")
    fetcher.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "[::1]", "localhost", "a.localhost"])
def test_a_host_of_the_inside_is_refused_before_anything_is_sent(host: str) -> None:
    url = f"http://{host}/"
    with (
        closing(Fetcher(FetchSettings(hosts="http://*"), 10)) as fetcher,
        pytest.raises(BadImage, match="VQA_FETCH_PRIVATE"),
    ):
        fetcher.check(url)
    with closing(Fetcher(FetchSettings(hosts="http://*", private=True), 10)) as fetcher:
        fetcher.check(url)


@pytest.mark.parametrize(
    ("field", "value", "package", "module"),
    [("hosts", "*", "httpcore2", "web"), ("buckets", "s3://bucket", "obstore", "buckets")],
    ids=["hosts", "buckets"],
)
def test_without_the_extra_the_setting_and_the_package_are_named(
    monkeypatch: pytest.MonkeyPatch, field: str, value: str, package: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"vqa.fetch.{module}", raising=False)
    with pytest.raises(
        SettingsError, match=rf"^VQA_FETCH_{field.upper()} needs the package {package}.*vqa-queue\[fetch\]"
    ):
        Fetcher(FetchSettings(**{field: value}), 10)
    Fetcher(FetchSettings(), 10).close()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hosts": "https://images.example/path"}, "VQA_FETCH_HOSTS: https://images.example/path: .*no path"),
        ({"hosts": "ftp://images.example"}, "VQA_FETCH_HOSTS"),
        ({"hosts": "images.*"}, "VQA_FETCH_HOSTS"),
        ({"hosts": "*images.example"}, "VQA_FETCH_HOSTS"),
        ({"hosts": "127.1"}, "VQA_FETCH_HOSTS"),
        ({"buckets": "https://bucket"}, "VQA_FETCH_BUCKETS"),
        ({"buckets": "s3://bucket/../other"}, "VQA_FETCH_BUCKETS"),
        ({"roots": "images"}, "VQA_FETCH_ROOTS: images: .*absolute"),
        ({"timeout_s": 0}, "VQA_FETCH_TIMEOUT_S"),
    ],
    ids=["path", "scheme", "star", "star-within", "short-ip", "bucket-scheme", "bucket-up", "relative", "no-time"],
)
def test_a_setting_that_does_not_fit_is_named(fields: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        FetchSettings(**fields)
