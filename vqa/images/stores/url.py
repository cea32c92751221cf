"""The form of VQA_IMAGES_URL."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

_BUCKETS = ("s3", "gs", "az")


def check_url(url: str) -> None:
    """Raise ValueError if images cannot be kept there; no I/O."""
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        # they would be left out: another folder
        raise ValueError("must have %3F for ? and %23 for #")
    if parts.scheme in _BUCKETS and parts.netloc:
        return
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ValueError("must be file:///FOLDER, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX")


def local_folder(url: str) -> str | None:
    """Return the path of a file: URL; None for a bucket."""
    parts = urlsplit(url)
    return unquote(parts.path) if parts.scheme == "file" else None
