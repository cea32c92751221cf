"""The event loop that fetches, and what belongs to it."""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import Future
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from vqa.errors import ImageUnavailable, SettingsError
from vqa.fetch.files import read_below
from vqa.fetch.loop_thread import LoopThread
from vqa.fetch.places import Places
from vqa.fetch.prefixes import ObjectAddress
from vqa.fetch.retry import with_retries
from vqa.fetch.rules import Address, FilePath, Rules
from vqa.fetch.settings import FetchSettings
from vqa.fetch.shared import SharedFetches
from vqa.fetch.url import WebAddress

if TYPE_CHECKING:
    from vqa.fetch.buckets import BucketImages
    from vqa.fetch.web import WebImages
    from vqa.net.guarded import GuardedBackend


def require_extra(settings: FetchSettings) -> None:
    """Raise SettingsError if the settings allow what the base install has no library for."""
    for name, value, module in (
        ("HOSTS", settings.hosts, "vqa.fetch.web"),
        ("BUCKETS", settings.buckets, "vqa.fetch.buckets"),
    ):
        try:
            if value:
                import_module(module)
        except ImportError as error:
            missing = f"VQA_FETCH_{name} needs the package {error.name}"
            raise SettingsError(f"{missing}: pip install 'vqa-queue[fetch]'") from None


def open_web(
    settings: FetchSettings,
    rules: Rules,
    max_bytes: int,
    network: GuardedBackend | None = None,
    context: ssl.SSLContext | None = None,
) -> WebImages | None:
    """Return what fetches from web servers, if any is allowed."""
    if not settings.hosts:
        return None
    from vqa.fetch.web import WebImages
    from vqa.net.guarded import GuardedBackend

    guarded = network or GuardedBackend(settings.private)
    return WebImages(rules.check, max_bytes, settings.first_byte_s, guarded, context)


def open_buckets(settings: FetchSettings, max_bytes: int) -> BucketImages | None:
    """Return what reads from object stores, if any is allowed."""
    if not settings.buckets:
        return None
    from vqa.fetch.buckets import BucketImages

    return BucketImages(max_bytes, settings.timeout_s)


class Session:
    """Fetches in a thread of its own, for callers in any thread."""

    def __init__(
        self,
        settings: FetchSettings,
        max_bytes: int,
        rules: Rules,
        web: WebImages | None,
        buckets: BucketImages | None,
    ) -> None:
        self._timeout_s = settings.timeout_s
        self._roots = [root for root in settings.roots.split(":") if root]
        self._max_bytes = max_bytes
        self._rules = rules
        self._web, self._buckets = web, buckets
        self._places = Places()
        self._shared = SharedFetches(self._fetch)
        self._thread = LoopThread("vqa-fetch")

    def submit(self, url: str, caller: str) -> Future[bytes]:
        """Fetch the image. The future raises BadImage or ImageUnavailable, and this RuntimeError once closed."""
        return self._thread.submit(self._shared.get(url, caller))

    def close(self) -> None:
        self._thread.close(self._web.close() if self._web else None)

    async def _fetch(self, url: str, caller: str) -> bytes:
        address = self._rules.parse(url)
        name = _name(address)
        late = f"{name}: the image is not fetched within {self._timeout_s:g} s (VQA_FETCH_TIMEOUT_S)"
        try:
            async with self._places.place(name, caller, self._timeout_s):
                return await with_retries(partial(self._attempt, address), self._timeout_s, late)
        except TimeoutError:
            raise ImageUnavailable(f"{name}: too many images are fetched from there, or at all, at once") from None

    async def _attempt(self, address: Address) -> bytes:
        if isinstance(address, FilePath):
            return await asyncio.to_thread(read_below, address.path, self._roots, self._max_bytes)
        if isinstance(address, WebAddress):
            # the rules allow an address of the web or of a bucket only where there is something that fetches it
            assert self._web is not None
            return await self._web.get(address)
        assert self._buckets is not None
        return await self._buckets.get(address)


def _name(address: Address) -> str:
    if isinstance(address, FilePath):
        return "the file"
    return str(address) if isinstance(address, ObjectAddress) else address.host
