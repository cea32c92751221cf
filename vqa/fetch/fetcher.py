"""The fetcher: the image at an address, if a setting allows it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING

from vqa.errors import ImageUnavailable
from vqa.fetch.rules import Rules
from vqa.fetch.session import Session, open_buckets, open_web, require_extra
from vqa.fetch.settings import FetchSettings
from vqa.forks import restart_in_children

if TYPE_CHECKING:
    from vqa.net.guarded import GuardedBackend

_LATE = "the image is not fetched in the time that is left"
_CLOSED = "the image is not fetched, as this process is stopping"


class Fetcher:
    """Fetches images from URLs, for any number of threads and event loops, until it is closed.

    At most 64 at once, 32 of one caller and 6 from one host; those that ask for the same URL at the same time share one
    request. A forked child starts afresh.
    """

    def __init__(
        self,
        settings: FetchSettings,
        max_bytes: int,
        network: GuardedBackend | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Refuse images with over `max_bytes`.

        `network` and `context` replace the guarded network and the system's certificates. Raises SettingsError if the
        settings allow hosts or buckets, and the extra `fetch` is not installed.
        """
        self._settings = settings
        self._max_bytes = max_bytes
        self._given = network, context
        self._rules = Rules.from_settings(settings)
        self._closed = False
        self.start()
        # says at once if a library is missing
        require_extra(settings)
        restart_in_children(self)

    def start(self) -> None:
        """Forget the thread and connections: a forked child does not have the one, and must not use the other."""
        self._lock = threading.Lock()
        self._session: Session | None = None

    def check(self, url: str) -> None:
        """Raise BadImage, which names the setting, if the URL is not allowed; connects to nothing."""
        self._rules.parse(url)

    def fetch(self, url: str, timeout_s: float | None = None) -> bytes:
        """Return the bytes of the image at the URL, which begin as an image, a PDF document or a video does.

        Takes at most VQA_FETCH_TIMEOUT_S once it is its turn, and `timeout_s` in all. Raises BadImage if the URL is
        not allowed or what is there is no image, ImageUnavailable if it cannot be fetched for the moment: transient
        errors were tried again then, as far as there was time.
        """
        future = self.submit(url)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            raise ImageUnavailable(_LATE) from None
        except CancelledError:
            raise ImageUnavailable(_CLOSED) from None
        finally:
            future.cancel()

    async def fetch_async(self, url: str, timeout_s: float | None = None) -> bytes:
        """Do what `fetch` does, for callers in an event loop; cancelling it ends the request."""
        future = asyncio.wrap_future(self.submit(url))
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise ImageUnavailable(_LATE) from None
        except asyncio.CancelledError:
            if self._closed:
                raise ImageUnavailable(_CLOSED) from None
            raise

    def submit(self, url: str, caller: str = "") -> Future[bytes]:
        """Start to fetch as `fetch` does; cancelling the future ends the request, and so does `close`.

        `caller` is for whom: one who asks for much leaves places for others.
        Raises BadImage if the URL is not allowed, and ImageUnavailable once closed.
        """
        self.check(url)
        with self._lock:
            if self._closed:
                raise ImageUnavailable(_CLOSED)
            if self._session is None:
                self._session = self._open()
            return self._session.submit(url, caller)

    def close(self) -> None:
        """End requests that are under way with ImageUnavailable."""
        self._closed = True
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def _open(self) -> Session:
        settings, limit = self._settings, self._max_bytes
        web = open_web(settings, self._rules, limit, *self._given)
        return Session(settings, limit, self._rules, web, open_buckets(settings, limit))
