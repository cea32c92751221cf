"""Deletes images in a folder or bucket whose time is over. Any number of sweeps may run at the same time."""

from __future__ import annotations

from dataclasses import dataclass

from vqa.images.stores.blobs import Blobs, blob_name
from vqa.images.stores.contents import StoreUnavailable
from vqa.images.stores.index import Index

#: images claimed at once: so few that they are deleted before the claim is stale
_PORTION = 20
#: claims of one sweep
_PORTIONS = 10


def sweep(index: Index, blobs: Blobs) -> int:
    """Delete images that are due, at most 200, and return how many.

    Goes on past images that cannot be deleted, unless none of a portion can. Raises StoreUnavailable at the end then,
    and redis.exceptions.RedisError. What was claimed is tried again after DELETION_S, after all images that are due.
    """
    count, failed = 0, _Failures()
    for _ in range(_PORTIONS):
        claimed, references = index.claim(_PORTION)
        deleted = sum(_delete(index, blobs, claimed, reference, failed) for reference in references)
        count += deleted
        if len(references) < _PORTION or (failed.last and not deleted):
            break
    blobs.tidy()
    failed.end()
    return count


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last: StoreUnavailable | None = None

    def add(self, error: StoreUnavailable) -> None:
        self.count += 1
        self.last = error

    def end(self) -> None:
        """Raise StoreUnavailable if there are any."""
        if self.last is not None:
            raise StoreUnavailable(f"{self.last} ({self.count} images)") from self.last


def _delete(index: Index, blobs: Blobs, claimed: int, reference: str, failed: _Failures) -> bool:
    # not if this process was stopped for long after the claim: somebody may store the image again by now
    if not index.may_delete(claimed, reference):
        return False
    try:
        blobs.delete(blob_name(reference))
    except StoreUnavailable as error:
        # the claim stays: a request that was given up may still be carried out
        failed.add(error)
        return False
    index.deleted(claimed, reference)
    return True
