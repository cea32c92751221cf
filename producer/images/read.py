"""Read an image's bytes from a path, within a limit."""

from __future__ import annotations

import os
import stat

from vqa.errors import BadImage


def read_file(path: str, most: int) -> bytes:
    """An image's bytes. Raises BadImage, for what has more than so many, too."""
    try:
        # a pipe would wait for whoever writes into it
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise BadImage("an image is a regular file; this is none")
            if about.st_size > most:
                raise BadImage(f"the image has {about.st_size:,} bytes; the limit is {most:,} (VQA_IMAGE_MAX_BYTES)")
            # one that grows meanwhile is refused by its size, too
            return file.read(most + 1)
    except (OSError, ValueError) as error:
        # ValueError: a name that no file can have, such as one with a null byte
        reason = getattr(error, "strerror", None) or error
        raise BadImage(f"cannot read the image {path[:200]}: {reason}") from error


def _size(source: str) -> int:
    if not source.startswith("file:"):
        return len(source)
    try:
        return os.stat(source.removeprefix("file:")).st_size
    except (OSError, ValueError):
        return 0
