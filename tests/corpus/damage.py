"""What happens to files on their way, and what fuzzers do to them: each valid file, damaged in each way."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from random import Random

from tests.corpus.registry import bad
from tests.corpus.valid import valid_files

#: bytes in which the sizes, counts and offsets of most formats lie
_HEADER = 64

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _cut(data: bytes, draw: Random) -> bytes:
    return data[: draw.randrange(1, len(data))]


def _flipped(data: bytes, draw: Random, most: int, within: int | None = None) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, most)):
        changed[draw.randrange(min(len(data), within or len(data)))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _number(data: bytes, draw: Random) -> bytes:
    """Overwrite some bytes by an extreme number: wrong lengths, sizes, counts, offsets."""
    size = draw.choice("BHI")
    order = draw.choice("<>")
    length = struct.calcsize(size)
    at = draw.randrange(2, min(len(data), draw.choice((_HEADER, 4 * _HEADER, len(data)))) - length)
    value = draw.choice(_EXTREMES) & (2 ** (8 * length) - 1)
    return data[:at] + struct.pack(order + size, value) + data[at + length :]


def _spliced(data: bytes, draw: Random) -> bytes:
    """Remove, repeat or move a piece, or put in one of another file."""
    start, end = sorted(draw.randrange(len(data)) for _ in range(2))
    to = draw.randrange(len(data))
    other = draw.choice(list(valid_files().values()))
    return draw.choice(
        (
            data[:start] + data[end:],
            data[:to] + data[start:end] * draw.randint(1, 5) + data[to:],
            data[:start] + bytes(end - start) + data[end:],
            data[:start] + draw.randbytes(end - start) + data[end:],
            data[:to] + other[draw.randrange(len(other)) :],
        )
    )


DAMAGES: dict[str, Callable[[bytes, Random], bytes]] = {
    "cut": _cut,
    "one-bit": partial(_flipped, most=1),
    "bits": partial(_flipped, most=50),
    "header-bits": partial(_flipped, most=8, within=_HEADER),
    "number": _number,
    "spliced": _spliced,
}


def _damaged(draw: Random, name: str, damage: Callable[[bytes, Random], bytes]) -> bytes:
    return damage(valid_files()[name], draw)


# the damage outside, so that the first files of a round are of all formats
for _how, _damage in DAMAGES.items():
    for _name in valid_files():
        bad(f"{_name}-{_how}")(partial(_damaged, name=_name, damage=_damage))
