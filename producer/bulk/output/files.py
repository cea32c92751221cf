"""Destinations of output lines: durable files, to which complete frames are appended, and streams."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import BinaryIO

from producer.bulk.output.codec import codec_for, repair

#: pending bytes at which lines are written without waiting for the flush interval
FLUSH_BYTES = 2**20


class LineSink(ABC):
    """Gathers lines and writes them on `commit`."""

    def __init__(self, flush_interval_s: float = 0.0) -> None:
        self.flush_interval_s = flush_interval_s
        self.pending_bytes = 0
        self._lines: list[bytes] = []

    def add(self, line: bytes) -> None:
        self._lines.append(line)
        self.pending_bytes += len(line)

    @abstractmethod
    def commit(self) -> None:
        """Write the pending lines; they are durable on return. Raises OSError."""


class StreamSink(LineSink):
    """Standard output or another stream that a later run cannot read back."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def commit(self) -> None:
        lines, self._lines, self.pending_bytes = self._lines, [], 0
        self._file.write(b"".join(lines))
        self._file.flush()


class LineFile(LineSink):
    """A file, created with its first line. Existing content is repaired and kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.codec = codec_for(path)
        super().__init__(self.codec.flush_interval_s)
        self._descriptor: int | None = None
        self._end = 0
        if path.exists():
            repair(path, self.codec)

    def commit(self) -> None:
        """Append the pending lines with one write and one fsync."""
        if not self._lines:
            return
        if self._descriptor is None:
            self._open()
        assert self._descriptor is not None
        try:
            _write(self._descriptor, self.codec.compress(b"".join(self._lines)))
            os.fsync(self._descriptor)
        except OSError:
            # a full disk: leave no partial frame in front of the next one
            os.ftruncate(self._descriptor, self._end)
            raise
        self._end = os.fstat(self._descriptor).st_size
        self._lines, self.pending_bytes = [], 0

    def _open(self) -> None:
        new = not self.path.exists()
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._end = os.fstat(self._descriptor).st_size
        if new:
            sync_folder(self.path)

    def touch(self) -> None:
        """Create an empty file if there is none."""
        if not self.path.exists():
            self.path.write_bytes(self.codec.compress(b""))
            sync_folder(self.path)

    def close(self) -> None:
        """Close the file without writing pending lines."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Outputs:
    """OUT, ERR and, if there is one, REVIEW, committed together."""

    def __init__(self, out: LineSink, err: LineSink, review: LineSink | None = None) -> None:
        self.out = out
        self.err = err
        self.review = review
        self._flush_interval_s = max(out.flush_interval_s, err.flush_interval_s)
        self._committed = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether pending lines should be committed now."""
        pending = self.out.pending_bytes + self.err.pending_bytes
        waited_s = time.monotonic() - self._committed
        return pending > 0 and (pending >= FLUSH_BYTES or waited_s >= self._flush_interval_s)

    def commit(self) -> None:
        """Write the pending lines of all. Raises OSError."""
        if self.review is not None:
            # first, so that no row with a line in OUT lacks its copy after a kill
            self.review.commit()
        for sink in (self.out,) if self.out is self.err else (self.out, self.err):
            sink.commit()
        self._committed = time.monotonic()


def replace(path: Path, temporary: Path) -> None:
    """Replace `path` by the complete file `temporary`, atomically and durably."""
    _sync(temporary, os.O_RDONLY)
    os.replace(temporary, path)
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Make the directory entry of `path` durable."""
    _sync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
