"""Where lines are written: durable files, to which whole parts are added, or a stream."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import BinaryIO

from producer.bulk.output.codec import codec_of, heal

#: lines that wait are written once they are so many bytes, whoever asks
FULL_BYTES = 2**20


class Lines(ABC):
    """Something that lines are written to."""

    def __init__(self, settle_s: float = 0.0) -> None:
        #: seconds that lines are gathered for
        self.settle_s = settle_s
        #: how many bytes of lines wait to be written
        self.waiting = 0
        self._lines: list[bytes] = []

    def add(self, line: bytes) -> None:
        """Write this with the next commit."""
        self._lines.append(line)
        self.waiting += len(line)

    @abstractmethod
    def commit(self) -> None:
        """Write what waits; when this returns it is there for good. Raises OSError."""


class Stream(Lines):
    """Standard output, or what else has no content to go on from."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def commit(self) -> None:
        """Hand on what waits."""
        lines, self._lines, self.waiting = self._lines, [], 0
        self._file.write(b"".join(lines))
        self._file.flush()


class LineFile(Lines):
    """A file that is made when its first line comes; what it held before is healed and kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.codec = codec_of(path)
        super().__init__(self.codec.settle_s)
        self._descriptor: int | None = None
        self._end = 0
        if path.exists():
            heal(path, self.codec)

    def commit(self) -> None:
        """One write and one fsync, whatever waits."""
        if not self._lines:
            return
        if self._descriptor is None:
            self._open()
        assert self._descriptor is not None
        try:
            _write(self._descriptor, self.codec.pack(b"".join(self._lines)))
            os.fsync(self._descriptor)
        except OSError:
            # a full disk: no half of a part may stand before the next one
            os.ftruncate(self._descriptor, self._end)
            raise
        self._end = os.fstat(self._descriptor).st_size
        self._lines, self.waiting = [], 0

    def _open(self) -> None:
        new = not self.path.exists()
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._end = os.fstat(self._descriptor).st_size
        if new:
            sync_folder(self.path)

    def touch(self) -> None:
        """Make the file, with no line in it, where there is none."""
        if not self.path.exists():
            self.path.write_bytes(self.codec.pack(b""))
            sync_folder(self.path)

    def close(self) -> None:
        """Let go of the file; what waits is not written."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Outputs:
    """OUT and ERR together: a commit makes both durable."""

    def __init__(self, out: Lines, err: Lines) -> None:
        self.out = out
        self.err = err
        self._settle_s = max(out.settle_s, err.settle_s)
        self._committed = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether what waits should be written now."""
        waiting = self.out.waiting + self.err.waiting
        return waiting > 0 and (waiting >= FULL_BYTES or time.monotonic() - self._committed >= self._settle_s)

    def commit(self) -> None:
        """Write what waits. Raises OSError."""
        for lines in (self.out,) if self.out is self.err else (self.out, self.err):
            lines.commit()
        self._committed = time.monotonic()


def replace(path: Path, temporary: Path) -> None:
    """Put a whole file in another's place, durably."""
    _sync(temporary, os.O_RDONLY)
    os.replace(temporary, path)
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Make the file's name durable."""
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
