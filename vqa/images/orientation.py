"""Which side of an image is up, as cameras and viewers write it."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from PIL.ExifTags import Base

if TYPE_CHECKING:
    from PIL import Image

#: in XMP, as an attribute or as an element
_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])""")

#: keys of an image's `info` under which Pillow's readers put XMP
_XMP_KEYS = ("xmp", "XML:com.adobe.xmp")

#: types of a number that fits in an EXIF tag, and how it is read
_NUMBERS = {1: "B", 3: "H", 4: "I", 9: "i"}


def orientation(image: Image.Image) -> int:
    """Return the orientation, 1 to 8 as in EXIF, of a loaded image; 1 (upright) if there is none or it is nonsense.

    EXIF comes before XMP. No other tag is read, so that nonsense in it does no harm. A TIFF image is upright: Pillow
    turns it as it loads it.
    """
    for found in (exif_orientation(_exif(image)), _of_xmp(image)):
        if found is not None and 1 <= found <= 8:
            return found
    return 1


def _exif(image: Image.Image) -> bytes:
    if exif := image.info.get("exif"):
        return bytes(exif)
    # as ImageMagick writes it into PNG files: a line with its kind, one with its length, then hexadecimal digits
    profile = image.info.get("Raw profile type exif") or image.info.get("Raw profile type APP1") or ""
    try:
        return bytes.fromhex("".join(profile.split("\n")[3:]))
    except ValueError:
        return b""


def exif_orientation(exif: bytes) -> int | None:
    """Return the orientation in EXIF's first directory (TIFF 6.0, section 2), which may be nonsense; None without."""
    tiff = exif[6:] if exif.startswith(b"Exif\0\0") else exif
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2], "")
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for at in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, at)
            if tag == Base.Orientation and kind in _NUMBERS:
                return int(struct.unpack_from(order + _NUMBERS[kind], tiff, at + 8)[0])
    except struct.error:
        # it ends early
        pass
    return None


def _of_xmp(image: Image.Image) -> int | None:
    for key in _XMP_KEYS:
        if xmp := image.info.get(key):
            found = _XMP.search(xmp.encode() if isinstance(xmp, str) else bytes(xmp))
            return int(found[1]) if found else None
    return None
