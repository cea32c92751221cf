"""Files given as `file:` URLs, under allowed folders only."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import unquote_to_bytes

from vqa.errors import BadImage
from vqa.fetch.magic import is_visual
from vqa.fetch.response import no_visual, too_large

#: RFC 8089, with no host but this machine
_FORM = re.compile(r"file:(?://(?:localhost)?)?(/(?!/)[^?#]*)", re.IGNORECASE)

_NAME = "the file"


def is_file_url(text: str) -> bool:
    return text[:5].lower() == "file:"


def file_path(url: str) -> str:
    """Return the path that a `file:` URL names. Raises BadImage."""
    if (form := _FORM.fullmatch(url)) is None or b"\0" in (path := unquote_to_bytes(form[1])):
        raise BadImage("the image's address is not of the form file:///PATH, with % before special characters")
    return os.fsdecode(path)


def read_below(path: str, roots: Sequence[str], max_bytes: int) -> bytes:
    """Read the image file at the absolute path, which must lie in one of the folders once symbolic links are resolved.

    Raises BadImage, whose message does not quote the path: what is outside the folders, and whether it is there at
    all, is not for whoever asks.
    """
    if not roots:
        raise BadImage("images are not read from files here: VQA_FETCH_ROOTS allows no folder")
    with _opened(path) as found:
        # the file that is open, whatever its path leads to by now
        opened = f"/proc/self/fd/{found}"
        real, info = os.readlink(opened), os.fstat(found)
        if not any(_is_below(real, os.path.realpath(root)) for root in roots):
            raise _refused()
        if not stat.S_ISREG(info.st_mode):
            raise BadImage(f"{_NAME} is not a regular file")
        if info.st_size > max_bytes:
            raise too_large(_NAME, max_bytes)
        try:
            with open(opened, "rb") as file:
                data = file.read(max_bytes + 1)
        except OSError as error:
            raise BadImage(f"{_NAME} cannot be read: {error.strerror}") from None
    if len(data) > max_bytes:
        raise too_large(_NAME, max_bytes)
    if not is_visual(data):
        raise no_visual(_NAME)
    return data


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open the path without reading: O_PATH has no effect on devices and pipes, and waits for none."""
    try:
        found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError):
        raise _refused() from None
    try:
        yield found
    finally:
        os.close(found)


def _is_below(path: str, root: str) -> bool:
    return path.startswith(root.rstrip("/") + "/")


def _refused() -> BadImage:
    return BadImage(f"{_NAME} does not exist, or is in no folder that VQA_FETCH_ROOTS allows")
