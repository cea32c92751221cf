"""Decompression of gzip and zstd streams, recognised by their first bytes, not by file name.

zstd needs the optional package zstandard, which is imported on first use.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, cast

from vqa.errors import SettingsError

#: exceptions raised when a compressed stream, or one in UTF-16, is truncated or damaged
DAMAGE = (EOFError, OSError, zlib.error, UnicodeError)

#: bytes per read
_CHUNK = 256 * 1024

#: compressed bytes per read of zstd: one byte expands to at most 32 KiB, and the text of a read is held in memory
_ZSTD_CHUNK = 2048


def import_zstandard(name: str) -> ModuleType:
    """Import zstandard, for the file `name`. Raises SettingsError if it is not installed."""
    try:
        import zstandard
    except ImportError:
        raise SettingsError(f"{name}: zstd needs the package zstandard: pip install 'vqa-queue[zstd]'") from None
    return zstandard


def decompressed(raw: io.BufferedIOBase, name: str) -> io.BufferedReader:
    """Return a reader of the uncompressed content of `raw`, which the caller closes.

    This call and later reads raise one of DAMAGE if the stream is truncated or damaged. Raises SettingsError if it is
    zstd and zstandard is not installed.
    """
    head = raw.read(4)
    whole = prepend(head, raw)
    if head.startswith(b"\x1f\x8b"):
        return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=whole)), _CHUNK)
    # a zstd frame, or a skippable frame, with which parallel compressors start
    if head == b"\x28\xb5\x2f\xfd" or (head[1:] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        texts = _zstd_texts(whole, import_zstandard(name))
        return reader_of(lambda size: next(texts, b""))
    return whole


def prepend(head: bytes, rest: io.BufferedIOBase) -> io.BufferedReader:
    """Return a reader of `head` followed by `rest`; closing it leaves `rest` open."""
    # read1 returns what a pipe holds, so that rows are processed as they are written
    return io.BufferedReader(_Chunks(head, rest.read1), _CHUNK)


def reader_of(more: Callable[[int], bytes]) -> io.BufferedReader:
    """Return a reader of the chunks that `more(size)` returns, until one is empty."""
    return io.BufferedReader(_Chunks(b"", more), _CHUNK)


class _Chunks(io.RawIOBase):
    """A raw stream of `first`, then of the chunks that `more(size)` returns, until one is empty."""

    def __init__(self, first: bytes, more: Callable[[int], bytes]) -> None:
        self._chunk = memoryview(first)
        self._more = more

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._chunk:
            self._chunk = memoryview(self._more(len(buffer)))
        size = min(len(buffer), len(self._chunk))
        buffer[:size] = self._chunk[:size]
        self._chunk = self._chunk[size:]
        return size


def _zstd_texts(compressed: io.BufferedReader, zstandard: ModuleType) -> Iterator[bytes]:
    """Decompress all frames of a zstd stream; zstandard's own reader takes a truncated frame for the end."""
    frame: Any = None
    while data := compressed.read1(_ZSTD_CHUNK):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                text = frame.decompress(data)
            except zstandard.ZstdError as error:
                raise OSError(str(error)) from None
            data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
            if text:
                yield text
    if frame is not None:
        raise EOFError("the last zstd frame is truncated")
