"""Colour profiles (ICC.1:2022), which Pillow reads and does not make."""

from __future__ import annotations

import struct
from collections.abc import Sequence

#: XYZ of red, green and blue, for D50
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))

_D50 = (0.9642, 1.0, 0.8249)


def rgb_profile(primaries: Sequence[Sequence[float]], gamma: float) -> bytes:
    tags = {name: _xyz(value) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    return _profile(b"RGB ", b"XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma)))


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """Inks that are not pure: a table of two points a channel, from CMYK to Lab."""
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    line = bytes(range(256))
    points = bytearray()
    for index in range(16):
        cyan, magenta, yellow, black = (index >> shift & 1 for shift in (3, 2, 1, 0))
        light = 255 - 70 * cyan - 90 * magenta - 20 * yellow - 160 * black
        a, b = 128 - 40 * cyan + 75 * magenta, 128 - 40 * cyan - 5 * magenta + 90 * yellow
        points += bytes((max(10, light), *(128 + (side - 128) // (1 + 3 * black) for side in (a, min(b, 255)))))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + line * 4 + bytes(points) + line * 3
    return _profile(b"CMYK", b"Lab ", {b"A2B0": table}, b"prtr")


def _xyz(value: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(value)


def _fixed(values: Sequence[float]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": _xyz(_D50),
        **tags,
    }
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += padded
    head = struct.pack(">I4s4B", start + len(body), b"lcms", 2, 0x20, 0, 0) + kind + space + connection
    return head + bytes(12) + b"acsp" + bytes(28) + _fixed(_D50) + bytes(48) + table + body
