"""Compression of output files, chosen by file name: plain, gzip (RFC 1952) or zstd (RFC 8878).

Each append is one complete frame: a gzip member, a zstd frame, or plain lines. If the process dies during an append,
every earlier frame stays readable and the end of the last complete one can be found.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from producer.inputs.compression import import_zstandard

_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Codec:
    """How lines become bytes of a file, and back."""

    #: compress lines into one complete frame
    compress: Callable[[bytes], bytes]
    #: open an undamaged file for reading lines
    open: Callable[[Path], IO[bytes]]
    #: return the offset at which the last complete frame ends
    find_end: Callable[[BinaryIO], int]
    #: how long to gather lines before a write: tiny frames compress badly, and each write costs an fsync
    flush_interval_s: float


def codec_for(path: Path) -> Codec:
    """Choose the codec by the suffix of `path`. Raises SettingsError if zstd is not installed."""
    match path.suffix.lower():
        case ".gz":
            return _gzip()
        case ".zst":
            return _zstd(path)
    return Codec(bytes, lambda path: path.open("rb"), _end_of_lines, 0.05)


def repair(path: Path, codec: Codec) -> None:
    """Cut off an incomplete last frame, durably."""
    with path.open("r+b") as file:
        end = codec.find_end(file)
        if file.seek(0, os.SEEK_END) > end:
            file.truncate(end)
            os.fsync(file.fileno())


def _gzip() -> Codec:
    return Codec(
        lambda lines: gzip.compress(lines, 6, mtime=0),
        lambda path: io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(path, "rb"))),
        lambda file: _end_of_frames(file, lambda: zlib.decompressobj(wbits=31), zlib.error),
        1.0,
    )


def _zstd(path: Path) -> Codec:
    zstandard = import_zstandard(str(path))

    def read(path: Path) -> IO[bytes]:
        reader = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True)
        return io.BufferedReader(reader)

    def find_end(file: BinaryIO) -> int:
        return _end_of_frames(file, zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError)

    return Codec(zstandard.ZstdCompressor().compress, read, find_end, 1.0)


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


def _end_of_frames(file: BinaryIO, new_decompressor: Callable[[], Any], damage: type[Exception]) -> int:
    end = position = 0
    frame = new_decompressor()
    while data := file.read(_BLOCK):
        while data:
            try:
                frame.decompress(data)
            except damage:
                return end
            position += len(data)
            if not frame.eof:
                break
            data = frame.unused_data
            end = position = position - len(data)
            frame = new_decompressor()
    return end
