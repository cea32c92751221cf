"""Reads the images that callers name: one set of rules for client, command line, bulk submission and gateway.

    sha256:, img_...            in the image store already; nothing is read
    data:                       the bytes themselves
    file:                       in a folder of VQA_FETCH_ROOTS; without that setting, any file that the user can read,
                                but none for callers of a gateway
    https:, http:               from a host of VQA_FETCH_HOSTS
    s3:, gs:, az:, oss:         from a bucket of VQA_FETCH_BUCKETS

With VQA_FETCH=worker, URLs stay in the job, and the worker applies its own settings; they are checked here where these
settings are here, too.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from producer.images.content import check_content
from producer.images.locations import resolve_path
from producer.images.parts import IMAGE, Use
from producer.images.read import read_file
from producer.images.shrinker import Shrinker
from vqa.fetch.files import read_below
from vqa.fetch.settings import FetchSettings
from vqa.forks import restart_in_children
from vqa.images.data_url import from_data_url
from vqa.images.stored_id import is_stored_id
from vqa.jobs.message import is_url
from vqa.settings import QueueSettings

if TYPE_CHECKING:
    from vqa.fetch.fetcher import Fetcher


def is_named(source: str) -> bool:
    """Return whether a source names an image that Redis has, so that no bytes are read or sent."""
    return source.startswith("sha256:") or is_stored_id(source)


class ImageReader:
    """Reads and checks images. Thread-safe. Close it.

    `read` and `fetch` raise BadImage, and ImageUnavailable if another attempt may succeed.
    """

    def __init__(self, settings: QueueSettings, fetch: FetchSettings | None = None) -> None:
        """Raises SettingsError if a variable of the environment is wrong."""
        self._settings = settings
        self.fetch_settings = fetch or FetchSettings()
        self._fetcher: Fetcher | None = None
        #: of the images of jobs that are submitted, if they are to be no larger than they will be seen
        self.shrinker: Shrinker | None = None
        self.start()
        restart_in_children(self)

    def start(self) -> None:
        """Make a new lock: a forked child calls it again, since a thread that it has not may hold the parent's."""
        self._lock = threading.Lock()

    def close(self) -> None:
        if self._fetcher is not None:
            self._fetcher.close()

    @property
    def fetches(self) -> bool:
        """Whether URLs are fetched here, not by the worker."""
        return self._settings.fetch == "producer"

    @property
    def fetcher(self) -> Fetcher:
        """The fetcher. Raises SettingsError if the extra `fetch` is missing."""
        # here, because it needs packages that the base installation has not
        from vqa.fetch.fetcher import Fetcher

        with self._lock:
            if self._fetcher is None:
                self._fetcher = Fetcher(self.fetch_settings, self._settings.image_max_bytes)
            return self._fetcher

    def is_left(self, source: str) -> bool:
        """Return whether the source stays in the job as it is: in the store already, or a URL for the worker."""
        return is_named(source) or (is_url(source) and not self.fetches)

    def check(self, source: str) -> None:
        """Raise BadImage for a URL that the settings do not allow. No I/O."""
        if is_url(source) and (self.fetches or self._knows_rules(source)):
            self.fetcher.check(source)

    def check_foreign(self, source: str) -> None:
        """Do as `check` for a gateway's caller, who has no files: a `file:` must be in a folder of VQA_FETCH_ROOTS."""
        if source[:5].lower() == "file:":
            self.fetcher.check(source)
        else:
            self.check(source)

    def _knows_rules(self, url: str) -> bool:
        """Return whether the worker's settings are here, too: those of a producer alone are empty."""
        web = url[:4].lower() == "http"
        return bool(self.fetch_settings.hosts if web else self.fetch_settings.buckets)

    def read(self, source: str, use: Use = IMAGE) -> bytes:
        """Return the bytes at a source: `file:`, `data:` or a URL."""
        name = ""
        if is_url(source):
            data = self.fetcher.fetch(source)
        elif source[:5].lower() == "data:":
            data = from_data_url(source)
        else:
            name = source.removeprefix("file:")
            data = self._read_file(name)
        check_content(data, self._settings, use, name[:200])
        return data

    async def fetch(self, url: str, timeout_s: float | None = None, use: Use = IMAGE) -> bytes:
        """Return the bytes at a URL, or of a `file:` in an allowed folder, for an event loop."""
        data = await self.fetcher.fetch_async(url, timeout_s)
        # in a thread: a header may take a second
        await asyncio.to_thread(check_content, data, self._settings, use)
        return data

    def check_source(self, image: object) -> None:
        """Raise BadImage if VQA_FETCH_ROOTS is set, and the image is a path that leads to none of its folders."""
        is_path = isinstance(image, str | Path) and not (isinstance(image, str) and (is_url(image) or is_named(image)))
        if is_path and self._roots:
            self._read_file(resolve_path(str(image), os.getcwd()).removeprefix("file:"))

    @property
    def _roots(self) -> list[str]:
        return [root for root in self.fetch_settings.roots.split(":") if root]

    def _read_file(self, path: str) -> bytes:
        max_bytes = self._settings.image_max_bytes
        return read_below(path, self._roots, max_bytes) if self._roots else read_file(path, max_bytes)
