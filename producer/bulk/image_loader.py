"""Images of rows, read and checked ahead of their turn by a few threads, each of them once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from producer.images.read import _size, read_file
from producer.inputs import Row, image_sources
from vqa.errors import VQAError
from vqa.image import from_data_url, open_image
from vqa.image_store import reference
from vqa.settings import QueueSettings

_THREADS = 8

#: rows, and bytes of their images, that are read ahead of what is asked for
AHEAD = 256
AHEAD_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """One that was read and checked."""

    reference: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Todo:
    """A row that has no line yet, and its job's id."""

    id: str
    row: Row


@dataclass(frozen=True, slots=True)
class Seen:
    """A row whose images have been looked at."""

    todo: Todo
    #: by source; those that the row names by reference are not among them
    images: Mapping[str, LoadedImage]
    #: why there is no job
    error: VQAError | None = None


@dataclass(slots=True)
class _Reading:
    future: Future[LoadedImage]
    size: int
    #: rows that wait for it
    rows: int = 0


class ImageLoader:
    """Reads for one run. In a `with` statement, for its threads."""

    def __init__(self, settings: QueueSettings, ahead: int = AHEAD, ahead_bytes: int = AHEAD_BYTES) -> None:
        self._settings = settings
        self._ahead = ahead
        self._ahead_bytes = ahead_bytes
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="vqa-images")
        self._readings: dict[str, _Reading] = {}
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def seen(self, rows: Iterable[Todo]) -> Iterator[Seen]:
        """The rows in their order."""
        waiting: deque[tuple[Todo, list[str]]] = deque()
        for todo in rows:
            waiting.append((todo, self._begin(todo.row)))
            while waiting and (len(waiting) >= self._ahead or self._bytes >= self._ahead_bytes):
                yield self._end(*waiting.popleft())
        while waiting:
            yield self._end(*waiting.popleft())

    def _begin(self, row: Row) -> list[str]:
        sources = [source for source in image_sources(row) if not source.startswith("sha256:")]
        for source in sources:
            reading = self._readings.get(source)
            if reading is None:
                size = _size(source)
                reading = _Reading(self._pool.submit(self._read, source), size)
                self._readings[source] = reading
                self._bytes += size
            reading.rows += 1
        return sources

    def _end(self, todo: Todo, sources: list[str]) -> Seen:
        found: dict[str, LoadedImage] = {}
        error: VQAError | None = None
        for source in sources:
            reading = self._readings[source]
            try:
                found[source] = reading.future.result()
            except VQAError as why:
                error = error or why
            reading.rows -= 1
            if not reading.rows:
                del self._readings[source]
                self._bytes -= reading.size
        return Seen(todo, {}, error) if error else Seen(todo, found)

    def _read(self, source: str) -> LoadedImage:
        most = self._settings.image_max_bytes
        path = source.removeprefix("file:")
        data = read_file(path, most) if path != source else from_data_url(source)
        open_image(data, most, self._settings.image_max_pixels)
        return LoadedImage(reference(data), data)
