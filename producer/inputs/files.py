"""Compressed streams, told by their first bytes and not by their names: gzip and zstd."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from typing import Any, Literal, cast

import zstandard

from vqa.errors import SettingsError

#: what reading a compressed stream raises where it is torn or damaged
DAMAGE = (EOFError, OSError, zlib.error, zstandard.ZstdError)

#: bytes that are read at a time
_CHUNK = 256 * 1024

# zstd makes at most 32 KiB of a byte, and one piece's text is held in memory
_ZSTD_PIECE = 2048


def unpacked(raw: io.BufferedIOBase) -> io.BufferedReader:
    """What `raw` holds, uncompressed; `raw` is the caller's to close.

    Reading, the first bytes included, raises one of DAMAGE where the stream is torn or damaged.
    """
    head = raw.read(4)
    whole = rejoined(head, raw)
    if head.startswith(b"\x1f\x8b"):
        return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=whole)), _CHUNK)
    # a skippable frame, with which parallel compressors begin, or a frame
    if head == b"\x28\xb5\x2f\xfd" or (head[1:] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return io.BufferedReader(_Zstd(whole), _CHUNK)
    return whole


def rejoined(head: bytes, rest: io.BufferedIOBase) -> io.BufferedReader:
    """A stream of `head`, which was read from `rest` already, and then `rest`, which it does not close."""
    return io.BufferedReader(_Rejoined(head, rest), _CHUNK)


class _Rejoined(io.RawIOBase):
    def __init__(self, head: bytes, rest: io.BufferedIOBase) -> None:
        self._head = memoryview(head)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._head:
            # of a pipe, what is there, so that rows are seen as they are written
            self._head = memoryview(self._rest.read1(len(buffer)))
        size = min(len(buffer), len(self._head))
        buffer[:size] = self._head[:size]
        self._head = self._head[size:]
        return size


class _Zstd(io.RawIOBase):
    """All frames of a zstd stream; zstandard's own reader takes a torn frame for the stream's end."""

    def __init__(self, packed: io.BufferedReader) -> None:
        self._packed = packed
        self._frame: Any = None
        self._ready = memoryview(b"")
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._left or self._packed.read1(_ZSTD_PIECE)
            if not packed:
                if self._frame is not None:
                    raise EOFError("the last frame is not whole")
                return 0
            self._ready = memoryview(self._next(packed))
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _next(self, packed: bytes) -> bytes:
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        text = cast(bytes, self._frame.decompress(packed))
        self._left = b""
        if self._frame.eof:
            self._left = self._frame.unused_data
            self._frame = None
        return text


#: how an input is written; openai: OpenAI Batch; short: {"id", "image", "question"} a line
Form = Literal["openai", "short", "csv", "parquet", "images"]

_PACKED = (".gz", ".gzip", ".zst", ".zstd")


@dataclass(frozen=True, slots=True)
class Input:
    """One file, folder or glob."""

    #: as the user wrote it; - is standard input
    name: str
    #: absolute; relative images are found from here
    folder: str
    #: of a pipe or standard input, which can be read once: what is still to be read, uncompressed
    rest: BufferedReader | None = field(default=None, repr=False, compare=False)
    #: what is closed in the end; standard input is not
    pipe: BufferedReader | None = field(default=None, repr=False, compare=False)

    @contextmanager
    def open(self) -> Iterator[BufferedReader]:
        """The file, uncompressed; of a pipe what is left of it. Raises SettingsError."""
        with ExitStack() as stack:
            if self.rest is None:
                yield _begun(self.name, stack.enter_context(open_file(self.name)))
                return
            if self.pipe is not None:
                stack.enter_context(self.pipe)
            yield self.rest


def open_file(name: str) -> BufferedReader:
    """The file or pipe, which the caller closes. Raises SettingsError."""
    try:
        return BufferedReader(FileIO(name))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{name}: {getattr(error, 'strerror', None) or error}") from None


def suffix(name: str) -> str:
    """What a file's name ends in, in small letters, without what says that it is compressed."""
    base, last = os.path.splitext(name.lower())
    return os.path.splitext(base)[1] if last in _PACKED else last


def _begun(name: str, file: BufferedReader) -> BufferedReader:
    try:
        return unpacked(file)
    except DAMAGE as error:
        raise SettingsError(f"{name} cannot be read: {error}") from None
