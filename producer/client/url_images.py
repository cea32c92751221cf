"""Images that jobs name by URL: fetched and checked before the jobs are submitted, and named by reference from then on.

With VQA_FETCH=worker the URLs stay in the jobs and are only checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import TypeVar

from producer.client.shrinking import shrink_jobs
from producer.client.submission import PreparedJob
from producer.images.parts import Use, job_uses
from producer.images.reader import ImageReader
from vqa.errors import BadImage, ImageUnavailable
from vqa.images.store import reference
from vqa.jobs.message import is_url

_T = TypeVar("_T")

#: images that are fetched at once, all of which are in memory until their jobs have been sent
_AT_ONCE = 16

#: seconds for which an image that was stored is not fetched again; the store keeps it for longer
_FRESH_S = 600.0
_NEVER = ("", -_FRESH_S)
#: images that are remembered
_MOST_KNOWN = 10_000


def urls_of(jobs: Iterable[PreparedJob]) -> list[str]:
    """Return the URLs that the jobs name, without repetitions."""
    images = chain.from_iterable(prepared.job.contents() for prepared in jobs)
    return list(dict.fromkeys(image for image in images if isinstance(image, str) and is_url(image)))


class UrlImages:
    """The images of one submission, each of which is fetched once. For one thread."""

    def __init__(self, reader: ImageReader, *, collects: bool = False) -> None:
        """With `collects`, jobs whose images cannot be fetched are left out, and `failures` says why."""
        self._reader = reader
        self._collects = collects
        self._failures: list[tuple[str, BadImage | ImageUnavailable]] = []
        #: references by URL, and when the image was fetched
        self._known: dict[str, tuple[str, float]] = {}

    def take_failures(self) -> list[tuple[str, BadImage | ImageUnavailable]]:
        """Return the id of each job that was left out since the last call, and why."""
        failures, self._failures = self._failures, []
        return failures

    def ready(self, chunks: Iterable[Sequence[PreparedJob]]) -> Generator[list[PreparedJob]]:
        """Yield the jobs of the chunks once their images are there; a chunk of many images in several lists.

        An empty chunk is yielded as it is. What was yielded must have been sent before the next list is asked for.
        Raises BadImage and ImageUnavailable, naming the job, unless failures are collected.
        """
        for chunk in chunks:
            for part in self._parts(chunk):
                fetched = self._fetched(part)
                yield shrink_jobs(fetched, shrinker) if (shrinker := self._reader.shrinker) else fetched

    def _parts(self, jobs: Sequence[PreparedJob]) -> Iterator[list[PreparedJob]]:
        part: list[PreparedJob] = []
        urls: set[str] = set()
        for job in jobs:
            more = set(urls_of([job]))
            if part and more and len(urls | more) > _AT_ONCE:
                yield part
                part, urls = [], set()
            part.append(job)
            urls |= more
        if part or not jobs:
            yield part

    def _fetched(self, part: list[PreparedJob]) -> list[PreparedJob]:
        if not (urls := urls_of(part)):
            return part
        errors: dict[str, BadImage | ImageUnavailable] = {}
        images = self._fetch(part, urls, errors)
        found: list[PreparedJob] = []
        for prepared in part:
            own = urls_of([prepared])
            if wrong := [errors[url] for url in own if url in errors]:
                self._fail(prepared.id, wrong[0])
            elif not own or not self._reader.fetches:
                found.append(prepared)
            else:
                names = {url: self._known[url][0] for url in own}
                sent = {names[url]: images[url] for url in own if url in images}
                job = prepared.job.with_images(names)
                found.append(replace(prepared, job=job, images={**prepared.images, **sent}))
        return found

    def _fail(self, id: str, error: BadImage | ImageUnavailable) -> None:
        named = type(error)(f"job {id}: {error}")
        if not self._collects:
            raise named from None
        self._failures.append((id, named))

    def _fetch(
        self, part: list[PreparedJob], urls: list[str], errors: dict[str, BadImage | ImageUnavailable]
    ) -> dict[str, bytes]:
        """Return the images that are not known, by URL; add what failed to `errors`."""
        now = time.monotonic()
        wanted = [url for url in urls if self._reader.shrinker or now - self._known.get(url, _NEVER)[1] >= _FRESH_S]
        uses: dict[bytes | str, Use] = {}
        for each in part:
            for image, use in job_uses(each.job).items():
                uses[image] = uses.get(image, use) | use

        def get(url: str) -> bytes | BadImage | ImageUnavailable:
            try:
                self._reader.check(url)
                return self._reader.read(url, uses[url]) if self._reader.fetches else b""
            except (BadImage, ImageUnavailable) as error:
                return error

        images: dict[str, bytes] = {}
        for url, got in zip(wanted, _in_parallel(get, wanted), strict=True):
            if isinstance(got, bytes):
                images[url] = got
                self._known[url] = reference(got), now
            else:
                errors[url] = got
        while len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        return images


def _in_parallel(get: Callable[[str], _T], urls: Sequence[str]) -> list[_T]:
    if len(urls) <= 1:
        return list(map(get, urls))
    with ThreadPoolExecutor(min(_AT_ONCE, len(urls)), "vqa-fetches") as threads:
        return list(threads.map(get, urls))
