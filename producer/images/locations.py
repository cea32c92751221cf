"""Locations of images as rows name them, resolved to sources that do not depend on the row's folder."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from vqa.errors import BadImage, InvalidJob
from vqa.images.data_url import from_data_url
from vqa.images.stored_id import is_stored_id

_REFERENCE = re.compile(r"sha256:[0-9a-f]{64}")
_SCHEME = re.compile(r"(data|file|sha256|[a-z][a-z0-9+.-]{0,19}(?=://)):", re.IGNORECASE)


def resolve_url(url: str, folder: str) -> str:
    """Return the source of a data:, file: or sha256: URL, or of a stored image's id; a file: URL may be relative.

    Raises InvalidJob, or BadImage if the URL cannot be that of an image.
    """
    if is_stored_id(url):
        return url
    found = _SCHEME.match(url)
    match scheme := found[1].lower() if found else "":
        case "data":
            from_data_url(url)
            return url
        case "sha256":
            if not _REFERENCE.fullmatch(url):
                raise InvalidJob("a reference into the image store is sha256: followed by 64 hex digits")
            return url
        case "file":
            return resolve_path(_file_url_path(url[5:]), folder)
        case "":
            raise InvalidJob("an image URL starts with data:, file: or sha256:, or is a stored image's id, img_...")
    raise InvalidJob(f"{scheme}: URLs are not supported yet")


def resolve_location(text: str, folder: str) -> str:
    """Return the source of a URL, path or stored image's id; a path that looks like a URL needs ./ in front.

    An id that is the name of a file is a path.
    """
    if is_stored_id(text) and not os.path.exists(os.path.join(folder, text)):
        return text
    return resolve_url(text, folder) if _SCHEME.match(text) else resolve_path(text, folder)


def is_named(source: str) -> bool:
    """Return whether a source names an image that Redis has, so that no bytes are read or sent."""
    return source.startswith("sha256:") or is_stored_id(source)


def resolve_path(path: str, folder: str) -> str:
    """Return the source of a file whose path may be relative to `folder`. Raises BadImage for an impossible path."""
    if not path:
        raise BadImage("the image's path is empty")
    if "\0" in path:
        raise BadImage("the image's path contains a null byte")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise BadImage("the image's path contains half a surrogate pair") from None
    # not normalised: after a symlink, .. is not the parent that the path shows
    return "file:" + os.path.join(folder, path)


def _file_url_path(rest: str) -> str:
    """Return the percent-decoded path of a file: URL (RFC 8089); `rest` follows the scheme."""
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise InvalidJob("the file: URL names another machine")
        rest = slash + path
    return unquote(rest, errors="surrogateescape")
