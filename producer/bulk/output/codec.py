"""How a file of lines is kept: plain, gzip (RFC 1952) or zstd (RFC 8878), by its name.

What is added at once is one whole part of the file: a gzip member, a zstd frame, or just lines. So whatever ends the
process, all but the last part can be read, and the end of the last whole part can be found.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import zstandard

_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Codec:
    """Between lines and a file's bytes."""

    #: one whole part of the file
    pack: Callable[[bytes], bytes]
    #: the lines of a healed file
    open: Callable[[Path], IO[bytes]]
    #: where the last whole part of a file ends
    end: Callable[[BinaryIO], int]
    #: seconds that outcomes are gathered for, so that parts are not tiny and the disk is not all that is waited for
    settle_s: float


def codec_of(path: Path) -> Codec:
    """By the end of the file's name."""
    return {".gz": _gzip, ".zst": _zstd}.get(path.suffix.lower(), _plain)()


def heal(path: Path, codec: Codec) -> int:
    """Cut off a last part that is not whole; how many bytes that was."""
    with path.open("r+b") as file:
        end = codec.end(file)
        torn = file.seek(0, os.SEEK_END) - end
        if torn:
            file.truncate(end)
            os.fsync(file.fileno())
    return torn


def _plain() -> Codec:
    return Codec(bytes, lambda path: path.open("rb"), _end_of_lines, 0.05)


def _gzip() -> Codec:
    def end(file: BinaryIO) -> int:
        return _end_of_parts(file, lambda: zlib.decompressobj(wbits=31), zlib.error)

    def read(path: Path) -> IO[bytes]:
        reader: Any = gzip.GzipFile(path, "rb")
        return io.BufferedReader(reader)

    return Codec(lambda lines: gzip.compress(lines, 6, mtime=0), read, end, 1.0)


def _zstd() -> Codec:
    def end(file: BinaryIO) -> int:
        return _end_of_parts(file, zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError)

    def read(path: Path) -> IO[bytes]:
        reader: Any = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True)
        return io.BufferedReader(reader)

    return Codec(zstandard.ZstdCompressor().compress, read, end, 1.0)


def _end_of_lines(file: BinaryIO) -> int:
    position = file.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - _BLOCK)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def _end_of_parts(file: BinaryIO, unpacker: Callable[[], Any], damage: type[Exception]) -> int:
    end = position = 0
    part = unpacker()
    while data := file.read(_BLOCK):
        while data:
            try:
                part.decompress(data)
            except damage:
                return end
            position += len(data)
            if not part.eof:
                break
            data = part.unused_data
            end = position = position - len(data)
            part = unpacker()
    return end
