"""Whether bytes begin as a file of images does: the first line of defence, before anything decodes them."""

from __future__ import annotations

import re

#: bytes that tell
HEAD = 16

_STARTS = re.compile(
    rb"\xff\xd8\xff"
    rb"|\x89PNG\r\n\x1a\n"
    rb"|GIF8[79]a"
    rb"|RIFF....(WEBP|AVI )"
    # two bytes alone would let texts pass; the reserved ones are 0
    rb"|BM....\0\0\0\0"
    rb"|II[*+]\0|MM\0[*+]"
    # AVIF, HEIC, MP4, QuickTime
    rb"|....ftyp"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51"
    rb"|\0\0\x01\0"
    rb"|%PDF-"
    # Matroska and WebM, MPEG
    rb"|\x1a\x45\xdf\xa3|\0\0\x01[\xba\xb3]",
    re.DOTALL,
)


def is_visual(data: bytes | bytearray) -> bool:
    """Return whether the bytes begin as an image, a PDF document or a video does."""
    return _STARTS.match(data) is not None
