"""Bounded reads of image files."""

from __future__ import annotations

import os
import stat

from vqa.errors import BadImage


def read_file(path: str, max_bytes: int) -> bytes:
    """Read an image file. Raises BadImage if it is unreadable, not a regular file, or over `max_bytes`."""
    try:
        # O_NONBLOCK: opening a named pipe would block until somebody writes to it
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise BadImage(f"{path[:200]} is not a regular file")
            if (size := info.st_size) > max_bytes:
                raise BadImage(
                    f"{path[:200]}: the image has {size:,} bytes; the limit is {max_bytes:,} (VQA_IMAGE_MAX_BYTES)"
                )
            # one byte more: if the file grows meanwhile, a later check refuses its size
            return file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        # ValueError: an impossible file name, for example one with a null byte
        reason = getattr(error, "strerror", None) or error
        raise BadImage(f"cannot read the image {path[:200]}: {reason}") from error


def source_size(source: str) -> int:
    """Return the size of a source's image in bytes, roughly: 0 if its file cannot be read."""
    if not source.startswith("file:"):
        return len(source)
    try:
        return os.stat(source.removeprefix("file:")).st_size
    except (OSError, ValueError):
        return 0
