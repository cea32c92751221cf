"""Where a job's images come from: the image store, or a URL that the worker fetches by its own VQA_FETCH_ settings.

URLs are fetched in the job's own thread, all of a job at once, before anything is decoded: the few threads that feed
the decoders never wait for a server, so a slow one delays only the jobs that ask for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, closing, contextmanager

from vqa.errors import BadImage, Cancelled, DeadlineExceeded, ImageUnavailable
from vqa.fetch.fetcher import Fetcher
from vqa.images.store import ImageStore
from vqa.jobs.message import is_url
from workers.media.budget import Budget

#: images of the largest size that jobs may hold while their others come, and as many until they are answered; those
#: that are on the way are the fetcher's
_IMAGES = 64

#: seconds between two looks whether a job is still wanted
_LOOK_S = 0.5

_LATE = "the job's timeout ran out while its images were fetched"
_FULL = "the images that the worker's jobs have fetched by URL take all the memory there is for them"


class ImageSource:
    """The bytes of images by their names; one instance per process, shared by its threads."""

    def __init__(self, store: ImageStore, fetcher: Fetcher, max_bytes: int) -> None:
        self._store = store
        self._fetcher = fetcher
        self._max_bytes = max_bytes
        self._total = _IMAGES * max_bytes
        self._fetching, self._held = Budget(self._total), Budget(self._total)

    @contextmanager
    def opened(
        self,
        names: Iterable[bytes | str],
        deadline: float,
        wanted: Callable[[], bool] = lambda: True,
        caller: str = "",
    ) -> Iterator[Callable[[str], bytes]]:
        """Fetch what a job's URLs among `names` lead to, and return a function from a name to bytes.

        The bytes are held until the context ends; `deadline` is a time of `time.monotonic()`, and `caller` for whom the
        URLs are fetched. Raises BadImage, ImageUnavailable, DeadlineExceeded, Cancelled soon after the job is not
        `wanted` any more, and EngineError once closed. The function raises what ImageStore.get does.
        """
        urls = [name for name in dict.fromkeys(names) if isinstance(name, str) and is_url(name)]
        if not urls:
            yield self._store.get
            return
        with self._kept(urls, deadline, wanted, caller) as found:
            yield lambda name: found[name] if name in found else self._store.get(name)

    def close(self) -> None:
        self._fetcher.close()
        self._fetching.close()
        self._held.close()

    @contextmanager
    def _kept(
        self, urls: list[str], deadline: float, wanted: Callable[[], bool], caller: str
    ) -> Iterator[Mapping[str, bytes]]:
        with ExitStack() as held:
            with ExitStack() as fetching:
                found: dict[str, bytes] = {}
                with closing(self._fetched(urls, deadline, wanted, caller)) as images:
                    for url, data in images:
                        found[url] = data
                        self._check_total(sum(map(len, found.values())))
                        # by what has come: a job whose servers are slow takes nothing from others
                        fetching.enter_context(self._at_once(len(data)))
                # before the other is given back: a job that holds this one waits for neither
                held.enter_context(self._held.holding(sum(map(len, found.values())), deadline))
            yield found

    def _check_total(self, count: int) -> None:
        if count > self._total:
            limit = f"{self._total:,} bytes in all ({_IMAGES} times VQA_IMAGE_MAX_BYTES)"
            raise BadImage(f"the images that the job gives by URL have over {limit}")

    def _fetched(
        self, urls: list[str], deadline: float, wanted: Callable[[], bool], caller: str
    ) -> Generator[tuple[str, bytes], None, None]:
        """Yield the images as they come."""
        futures: dict[Future[bytes], str] = {}
        try:
            for url in urls:
                futures[self._fetcher.submit(url, caller)] = url
            waiting = set(futures)
            while waiting:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise DeadlineExceeded(_LATE)
                if not wanted():
                    raise Cancelled("the job was closed while its images were fetched")
                done, waiting = wait(waiting, min(left_s, _LOOK_S), FIRST_COMPLETED)
                for future in done:
                    if future.cancelled():
                        raise ImageUnavailable("the image is not fetched, as the worker is stopping")
                    yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()

    @contextmanager
    def _at_once(self, count: int) -> Iterator[None]:
        """Hold so many bytes without waiting for them: jobs that hold some might wait for each other for ever."""
        with ExitStack() as held:
            try:
                held.enter_context(self._fetching.holding(count, deadline=0.0))
            except DeadlineExceeded:
                raise ImageUnavailable(_FULL) from None
            yield
