"""Which side of an image is up, as cameras and viewers write it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from PIL.ExifTags import Base

if TYPE_CHECKING:
    from PIL import Image

#: in XMP, as an attribute or as an element
_XMP = re.compile(r"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])""")

#: keys of an image's `info` under which Pillow's readers put XMP
_XMP_KEYS = ("xmp", "XML:com.adobe.xmp")


def orientation(image: Image.Image) -> int:
    """Return the orientation, 1 to 8 as in EXIF, of a loaded image; 1 (upright) if there is none or it is nonsense.

    EXIF comes before XMP. Other EXIF tags are not looked at, so that nonsense in them does no harm.
    """
    try:
        # also from TIFF tags, and from the text that ImageMagick writes into PNG files
        value = image.getexif().get(Base.Orientation)
    except Exception:
        # Pillow's reader raises all kinds of exceptions on damaged EXIF
        value = None
    return value if isinstance(value, int) and 1 <= value <= 8 else _xmp_orientation(image)


def _xmp_orientation(image: Image.Image) -> int:
    for key in _XMP_KEYS:
        if xmp := image.info.get(key):
            found = _XMP.search(xmp if isinstance(xmp, str) else bytes(xmp).decode("latin-1"))
            return int(found[1]) if found else 1
    return 1
