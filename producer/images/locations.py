"""Locations of images as callers name them, resolved to sources that do not depend on the caller's folder.

A source is `file:` and an absolute path, a `data:` URL, `sha256:` and 64 hex digits, `img_...`, or a URL that is
fetched (`vqa.jobs.message.is_url`). Whether it may be fetched or read is `producer.images.reader`'s to say.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from vqa.errors import BadImage, InvalidJob
from vqa.images.data_url import from_data_url
from vqa.images.stored_id import is_stored_id
from vqa.jobs.message import MOST_URL, is_url

_REFERENCE = re.compile(r"sha256:[0-9a-f]{64}")
_SUPPORTED = "data:, https:, http:, s3:, gs:, az:, oss:, file: or sha256:"
_SCHEME = re.compile(r"(data|file|sha256|[a-z][a-z0-9+.-]{0,19}(?=://)):", re.IGNORECASE)


def resolve_url(url: str, folder: str) -> str:
    """Return the source of a URL, or of a stored image's id; a file: URL may be relative.

    Raises InvalidJob, or BadImage if the URL cannot be that of an image.
    """
    if is_stored_id(url):
        return url
    if is_url(url):
        return checked_url(url)
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
            raise InvalidJob(f"an image URL starts with {_SUPPORTED}, or is a stored image's id, img_...")
    raise InvalidJob(f"{scheme}: URLs are not supported; there are {_SUPPORTED}")


def checked_url(url: str) -> str:
    """Return the URL. Raises BadImage if it is too long for a job."""
    if len(url) > MOST_URL:
        raise BadImage(f"the image's URL has {len(url):,} characters; at most {MOST_URL:,} are allowed")
    return url


def resolve_location(text: str, folder: str) -> str:
    """Return the source of a URL, path or stored image's id; a path that looks like a URL needs ./ in front.

    An id that is the name of a file is a path.
    """
    if is_stored_id(text) and not os.path.exists(os.path.join(folder, text)):
        return text
    return resolve_url(text, folder) if _SCHEME.match(text) else resolve_path(text, folder)


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
