"""What a folder or a bucket can do. Names are made from hashes alone: nothing of a user's reaches a path."""

from __future__ import annotations

from typing import Protocol


def blob_name(reference: str) -> str:
    """Return `ab/abcd...` for `sha256:abcd...`: 256 folders, so that none holds too many files."""
    digits = reference.removeprefix("sha256:")
    if len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise ValueError("not a reference into the image store")
    return f"{digits[:2]}/{digits}"


class Blobs(Protocol):
    """Bytes by name. Methods are for any thread and raise StoreUnavailable; each request has a time limit.

    A folder on a file server that hangs has none: such calls wait in the kernel.
    """

    def put(self, name: str, data: bytes) -> None:
        """Store bytes, replacing what is there; readers see all of it or nothing. Raises StoreFull."""

    def get(self, name: str) -> bytes | None: ...

    def size(self, name: str) -> int | None: ...

    def delete(self, name: str) -> None:
        """Delete the blob, if it is there."""

    def tidy(self) -> None:
        """Delete what writers that were killed have left."""
