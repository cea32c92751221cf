"""Reads images from what a caller has: a path, bytes, an open file or a PIL image."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from vqa.errors import BadImage
from vqa.images.file import read_header
from vqa.images.pil_image import encode

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


def read_image(
    source: str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image, *, video: bool = False
) -> bytes:
    """Return the encoded bytes of `source`; of a PIL image the current frame is encoded.

    Raises BadImage if the file cannot be read or is no image (unless it is a `video`), or if the type is not supported.
    """
    match source:
        case bytes():
            return source
        case bytearray() | memoryview():
            return bytes(source)
        case str() if found := _SCHEME.match(source):
            raise BadImage(f"an image must be a file, bytes or a URL that can be fetched; {found[1].lower()}: cannot")
        case str() | Path():
            name = str(source)[:200]
            try:
                data = Path(source).read_bytes()
            except (OSError, ValueError) as error:
                # ValueError: not a possible file name, for example one with a null byte
                raise BadImage(f"cannot read the image {name}: {getattr(error, 'strerror', None) or error}") from error
            return data if video else _checked(data, name)
        case Image.Image():
            return encode(source)
        case _ if hasattr(source, "read"):
            return _read_open(source, video)
    raise BadImage(f"an image must be a path, bytes, an open binary file or a PIL image, not {type(source).__name__}")


def _read_open(file: Any, video: bool) -> bytes:
    """Read what is left of an open file, or all of it if nothing is left, as after writing it."""
    name = str(getattr(file, "name", "the open file"))[:200]
    if isinstance(file, io.TextIOBase):
        raise BadImage(f"{name} is open as text; open it with mode 'rb'")
    try:
        data = file.read()
        if not data and file.seekable() and file.tell():
            file.seek(0)
            data = file.read()
    except (OSError, ValueError) as error:
        # ValueError: it is closed
        raise BadImage(f"cannot read the image {name}: {getattr(error, 'strerror', None) or error}") from error
    return data if video else _checked(data, name)


def _checked(data: bytes, name: str) -> bytes:
    read_header(data, name=name)
    return data
