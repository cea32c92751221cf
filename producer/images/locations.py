"""Where an image is: what a row says of it, made into a source that does not depend on the row's folder."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from vqa.errors import BadImage, InvalidJob
from vqa.image import from_data_url

_REFERENCE = re.compile(r"sha256:[0-9a-f]{64}")
_SCHEME = re.compile(r"(data|file|sha256|[a-z][a-z0-9+.-]{0,19}(?=://)):", re.IGNORECASE)


def from_address(address: str, folder: str) -> str:
    """The source of a data:, file: or sha256: address; a file: address may be relative to `folder`.

    Raises InvalidJob, or BadImage for what is none of an image.
    """
    found = _SCHEME.match(address)
    match scheme := found[1].lower() if found else "":
        case "data":
            from_data_url(address)
            return address
        case "sha256":
            if not _REFERENCE.fullmatch(address):
                raise InvalidJob("a reference into the image store is sha256: and 64 hex digits")
            return address
        case "file":
            return from_path(_path(address[5:]), folder)
        case "":
            raise InvalidJob("an image's address begins with data:, file: or sha256:")
    raise InvalidJob(f"{scheme}: addresses are not fetched yet")


def from_text(text: str, folder: str) -> str:
    """The source of an address or of a path; a path that looks like an address is written with ./ before it."""
    return from_address(text, folder) if _SCHEME.match(text) else from_path(text, folder)


def from_path(path: str, folder: str) -> str:
    """The source of a file, relative to `folder` or not. Raises BadImage for what no file can be called."""
    if not path:
        raise BadImage("the image's path is empty")
    if "\0" in path:
        raise BadImage("the image's path has a null byte")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise BadImage("the image's path has half a surrogate pair") from None
    # not normalised: .. after a symlink is not what it looks like
    return "file:" + os.path.join(folder, path)


def _path(rest: str) -> str:
    """Of a file: URL (RFC 8089), percent-decoded."""
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise InvalidJob("a file: address of another machine")
        rest = slash + path
    return unquote(rest, errors="surrogateescape")
