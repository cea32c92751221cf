"""PIL images as files that say the same: nothing is lost but what no worker looks at."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from PIL.ExifTags import Base

from vqa.errors import BadImage
from vqa.images.file import reason
from vqa.images.orientation import orientation

#: Pillow's modes that PNG stores without loss
_PNG_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})

#: those that TIFF stores without loss and PNG does not: 32 bits, floating point, and colours of print
_TIFF_MODES = frozenset({"I", "F", "CMYK", "LAB"})

#: the nearest of the others; those in no list become RGB
_NEAREST = {"I;16B": "I", "I;16L": "I", "I;16N": "I", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"}


def encode(image: Image.Image) -> bytes:
    """Return the current frame of `image` as a PNG or TIFF file that says which side is up.

    Raises BadImage if the image cannot be read, for example because its file is closed or ends early.
    """
    buffer = io.BytesIO()
    try:
        image.load()
        exif = Image.Exif()
        exif[Base.Orientation] = orientation(image)
        kept = image if image.mode in _PNG_MODES | _TIFF_MODES else image.convert(_NEAREST.get(image.mode, "RGB"))
        if kept.mode in _PNG_MODES:
            kept.save(buffer, "PNG", exif=exif)
        else:
            _save_tiff(kept, buffer, exif)
    except MemoryError:
        raise
    except Exception as error:
        # a truncated or closed file that was opened lazily, no pixels, a field of `info` of the wrong type: Pillow
        # raises all kinds of exceptions
        raise BadImage(f"the PIL image cannot be read: {reason(error)}") from None
    return buffer.getvalue()


def _save_tiff(image: Image.Image, buffer: io.BytesIO, exif: Image.Exif) -> None:
    how: dict[str, Any] = {"exif": exif}
    if profile := image.info.get("icc_profile"):
        how["icc_profile"] = profile
    # a copy has no tags of the TIFF file that the image came from; they would be written again
    image.copy().save(buffer, "TIFF", compression="tiff_adobe_deflate", **how)
