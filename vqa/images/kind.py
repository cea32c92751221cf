"""What a file is that Pillow does not open."""

from __future__ import annotations

import io
import re

from PIL.ExifTags import Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

#: by their first bytes
_KINDS = (
    (
        rb"\xff\xd8|\x89PNG|RIFF....WEBP|GIF8|BM|II[*+]|MM\0[*+]|....ftyp(hei|hev|avi|mif1|msf1)|"
        rb"\0\0\0\x0cjP|\xff\x4f\xff\x51",
        "damaged, or of a kind that Pillow cannot read",
    ),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", "a video"),
    (rb"\xff\x0a|\0\0\0\x0cJXL", "a JPEG XL image"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript document"),
    (rb"\0\0[\1\2]\0", "an icon"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\s*<", "a text such as SVG or HTML"),
)

#: the value of TIFF's tag SampleFormat for floating point
_FLOATING = 3


def kind(data: bytes) -> str:
    """Return ` (it is ...)`, or nothing if the kind is unknown."""
    what = _tiff(data) or next((what for start, what in _KINDS if re.match(start, data, re.DOTALL)), "")
    return what and f" (it is {what})"


def _tiff(data: bytes) -> str:
    """Describe a TIFF image whose pixels are of a kind that Pillow does not read; return nothing for other files."""
    try:
        # 16 bytes in BigTIFF
        tags = ImageFileDirectory_v2(data[: 16 if b"+" in data[2:4] else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits, formats = tags.get(Base.BitsPerSample, (1,)), tags.get(Base.SampleFormat, (1,))
        channels = int(tags.get(Base.SamplesPerPixel, 1))
    except Exception:
        # no TIFF file, or a damaged one: Pillow raises all kinds of exceptions
        return ""
    if _FLOATING not in formats and max(bits) <= 16:
        return ""
    return (
        f"a TIFF image of {channels} {'channel' if channels == 1 else 'channels'} with {max(bits)} bits "
        f"{'floating point' if _FLOATING in formats else 'each'}, which Pillow cannot read; convert it to 8 bits per "
        "channel, for example by `magick IN.tif -depth 8 OUT.png`"
    )
