"""Read-ahead of rows' images: a few threads read and check them, each image once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from producer.images.locations import is_named
from producer.images.read import read_file, source_size
from producer.inputs import Row, image_sources
from vqa.errors import VQAError
from vqa.images.data_url import from_data_url
from vqa.images.file import frame_count, open_image
from vqa.images.store import reference
from vqa.settings import QueueSettings

_THREADS = 8

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
    """A row whose images have been read."""

    id: str
    row: Row
    #: by source, without images that the row names by reference
    images: Mapping[str, LoadedImage]
    #: why an image cannot be used; then `images` is empty
    error: VQAError | None = None

    def parts_unseen(self) -> list[str]:
        """Name the images with more pages or frames than the first, which alone is asked about."""
        counts = {source: frame_count(image.data) for source, image in self.images.items()}
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
    size: int
    #: rows that wait for this image
    rows: int = 0


class ImageLoader:
    """Reads images in threads; a context manager that stops them."""

    def __init__(self, settings: QueueSettings, rows_ahead: int = ROWS_AHEAD) -> None:
        self._settings = settings
        self._rows_ahead = rows_ahead
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="vqa-images")
        self._readings: dict[str, _Reading] = {}
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def load(self, rows: Iterable[PendingRow]) -> Iterator[LoadedRow]:
        """Yield the rows in order, with their images."""
        waiting: deque[tuple[PendingRow, list[str]]] = deque()
        for pending in rows:
            waiting.append((pending, self._start(pending.row)))
            while waiting and (len(waiting) >= self._rows_ahead or self._bytes >= BYTES_AHEAD):
                yield self._collect(*waiting.popleft())
        while waiting:
            yield self._collect(*waiting.popleft())

    def _start(self, row: Row) -> list[str]:
        sources = [source for source in image_sources(row) if not is_named(source)]
        for source in sources:
            reading = self._readings.get(source)
            if reading is None:
                size = source_size(source)
                reading = _Reading(self._pool.submit(self._read, source), size)
                self._readings[source] = reading
                self._bytes += size
            reading.rows += 1
        return sources

    def _collect(self, pending: PendingRow, sources: list[str]) -> LoadedRow:
        images: dict[str, LoadedImage] = {}
        error: VQAError | None = None
        for source in sources:
            reading = self._readings[source]
            try:
                images[source] = reading.future.result()
            except VQAError as why:
                error = error or why
            reading.rows -= 1
            if not reading.rows:
                del self._readings[source]
                self._bytes -= reading.size
        return LoadedRow(pending.id, pending.row, {} if error else images, error)

    def _read(self, source: str) -> LoadedImage:
        max_bytes = self._settings.image_max_bytes
        path = source.removeprefix("file:")
        named = path != source
        data = read_file(path, max_bytes) if named else from_data_url(source)
        open_image(data, max_bytes, self._settings.image_max_pixels, path[:200] if named else "")
        return LoadedImage(reference(data), data)
