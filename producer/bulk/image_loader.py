"""Read-ahead of rows' images: threads read, fetch and check them, each image once."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from producer.images.parts import Use, source_uses
from producer.images.read import source_size
from producer.images.reader import ImageReader
from producer.images.shrinkable import details_of_messages
from producer.images.shrinker import Shrinker
from producer.inputs import Row
from vqa.errors import VQAError
from vqa.images.file import frame_count
from vqa.images.fit import Fit
from vqa.images.store import reference
from vqa.jobs.message import is_url

#: for files, which are nearly always there at once, and for URLs, where a thread waits for a server
_THREADS, _FETCHES = 8, 32

#: what a URL's image counts until it is there
_URL_BYTES = 2**20

#: a source, how its rows show it, and the sizes at which it is seen, if it is to be shrunk
_Wanted = tuple[str, Use, Fit | None]

#: limits of the read-ahead: rows, and bytes of their images
ROWS_AHEAD = 256
BYTES_AHEAD = 64 * 2**20


@dataclass(frozen=True, slots=True)
class LoadedImage:
    #: sha256: reference into the image store
    reference: str
    data: bytes


@dataclass(frozen=True, slots=True)
class PendingRow:
    """A row without an output line yet."""

    #: job id
    id: str
    row: Row


@dataclass(frozen=True, slots=True)
class LoadedRow:
    """A row whose images have been read; URLs that are left to the worker have been checked."""

    id: str
    row: Row
    #: by source, without images that stay in the job as the row names them
    images: Mapping[str, LoadedImage]
    #: why an image cannot be used; then `images` is empty
    error: VQAError | None = None

    def parts_unseen(self) -> list[str]:
        """Name the animated images, of which only the first frame is asked about."""
        uses = source_uses(self.row.fields["messages"])
        counts = {source: frame_count(image.data) for source, image in self.images.items() if not uses[source].video}
        return [
            f"{os.path.basename(source) if source.startswith('file:') else 'an image'} (the first of {count:,})"
            for source, count in counts.items()
            if count > 1
        ]

    @property
    def references(self) -> dict[str, str]:
        """References into the image store, by source."""
        return {source: image.reference for source, image in self.images.items()}


@dataclass(slots=True)
class _Reading:
    future: Future[LoadedImage]
    #: roughly; of a URL's image exact once it is there
    size: int
    #: rows that wait for this image
    rows: int = 0


class ImageLoader:
    """Reads images in threads; a context manager that stops them."""

    def __init__(self, reader: ImageReader, shrinker: Shrinker | None = None) -> None:
        """With a shrinker, images are scaled to what the model will see of them."""
        self._reader = reader
        self._shrinker = shrinker
        self._files = ThreadPoolExecutor(_THREADS, thread_name_prefix="vqa-images")
        self._urls = ThreadPoolExecutor(_FETCHES, thread_name_prefix="vqa-fetches")
        self._readings: dict[_Wanted, _Reading] = {}
        #: of all readings; threads that fetch correct it
        self._bytes = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.shutdown(wait=False, cancel_futures=True)
        self._urls.shutdown(wait=False, cancel_futures=True)

    def load(self, rows: Iterable[PendingRow], *, checks: bool = False) -> Iterator[LoadedRow]:
        """Yield the rows in order, with their images; these are not shrunk if the caller only `checks` them."""
        waiting: deque[tuple[PendingRow, list[_Wanted], VQAError | None]] = deque()
        for pending in rows:
            waiting.append((pending, *self._start(pending.row, checks)))
            while waiting and (len(waiting) >= ROWS_AHEAD or self._bytes >= BYTES_AHEAD):
                yield self._collect(*waiting.popleft())
        while waiting:
            yield self._collect(*waiting.popleft())

    def _start(self, row: Row, checks: bool) -> tuple[list[_Wanted], VQAError | None]:
        """Start to read the row's images; return what is read, or nothing and why one of them may not be read."""
        found = source_uses(row.fields["messages"])
        try:
            for source in found:
                self._reader.check(source)
        except VQAError as error:
            return [], error
        fits = {} if checks else self._fits(row)
        wanted = [(name, use, fits.get(name)) for name, use in found.items() if not self._reader.is_left(name)]
        for source, use, fit in wanted:
            reading = self._readings.get((source, use, fit))
            if reading is None:
                pool = self._urls if is_url(source) else self._files
                reading = _Reading(Future(), _URL_BYTES if is_url(source) else source_size(source))
                self._readings[source, use, fit] = reading
                self._add(reading.size)
                reading.future = pool.submit(self._read, source, use, fit, reading)
            reading.rows += 1
        return wanted, None

    def _fits(self, row: Row) -> dict[str, Fit | None]:
        if self._shrinker is None:
            return {}
        most = row.fields.get("max_image_tokens")
        # a wrong one is told when the job is made
        most = most if isinstance(most, int) and most > 0 else None
        details = details_of_messages(row.fields["messages"])
        return {source: self._shrinker.fit(detail, most) for source, detail in details.items()}

    def _collect(self, pending: PendingRow, wanted: list[_Wanted], error: VQAError | None) -> LoadedRow:
        images: dict[str, LoadedImage] = {}
        for source, use, fit in wanted:
            reading = self._readings[source, use, fit]
            try:
                images[source] = reading.future.result()
            except VQAError as why:
                error = error or why
            reading.rows -= 1
            if not reading.rows:
                del self._readings[source, use, fit]
                self._add(-reading.size)
        return LoadedRow(pending.id, pending.row, {} if error else images, error)

    def _read(self, source: str, use: Use, fit: Fit | None, reading: _Reading) -> LoadedImage:
        data = self._reader.read(source, use)
        if fit is not None and self._shrinker is not None:
            data = self._shrinker.shrink(data, fit)
        if is_url(source) or fit is not None:
            self._add(len(data) - reading.size)
            reading.size = len(data)
        return LoadedImage(reference(data), data)

    def _add(self, size: int) -> None:
        with self._lock:
            self._bytes += size
