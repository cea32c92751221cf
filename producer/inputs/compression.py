"""Decompression of gzip and zstd streams, recognised by their first bytes, not by file name.

zstd needs the optional package zstandard, which is imported on first use.
"""

from __future__ import annotations

import gzip
import io
import zlib
from types import ModuleType
from typing import Any, cast

from vqa.errors import SettingsError

#: exceptions raised when a compressed stream is truncated or damaged
DAMAGE = (EOFError, OSError, zlib.error)

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
        return io.BufferedReader(_ZstdReader(whole, import_zstandard(name)), _CHUNK)
    return whole


def prepend(head: bytes, rest: io.BufferedIOBase) -> io.BufferedReader:
    """Return a reader of `head` followed by `rest`; closing it leaves `rest` open."""
    return io.BufferedReader(_Prepended(head, rest), _CHUNK)


class _Prepended(io.RawIOBase):
    def __init__(self, head: bytes, rest: io.BufferedIOBase) -> None:
        self._head = memoryview(head)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._head:
            # read1 returns what a pipe holds, so that rows are processed as they are written
            self._head = memoryview(self._rest.read1(len(buffer)))
        size = min(len(buffer), len(self._head))
        buffer[:size] = self._head[:size]
        self._head = self._head[size:]
        return size


class _ZstdReader(io.RawIOBase):
    """Reads all frames of a zstd stream; zstandard's own reader takes a truncated frame for the end."""

    def __init__(self, compressed: io.BufferedReader, zstandard: ModuleType) -> None:
        self._compressed = compressed
        self._zstandard = zstandard
        self._frame: Any = None
        self._text = memoryview(b"")
        self._unused = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._text:
            data = self._unused or self._compressed.read1(_ZSTD_CHUNK)
            if not data:
                if self._frame is not None:
                    raise EOFError("the last zstd frame is truncated")
                return 0
            self._text = memoryview(self._decompress(data))
        size = min(len(buffer), len(self._text))
        buffer[:size] = self._text[:size]
        self._text = self._text[size:]
        return size

    def _decompress(self, data: bytes) -> bytes:
        if self._frame is None:
            self._frame = self._zstandard.ZstdDecompressor().decompressobj()
        try:
            text = cast(bytes, self._frame.decompress(data))
        except self._zstandard.ZstdError as error:
            raise OSError(str(error)) from None
        self._unused = b""
        if self._frame.eof:
            self._unused = self._frame.unused_data
            self._frame = None
        return text
