"""Deletes images in a folder or bucket whose time is over. Any number of sweeps may run at the same time."""

from __future__ import annotations

from vqa.images.stores.blobs import Blobs, blob_name
from vqa.images.stores.index import Index

#: images claimed at once: so few that they are deleted before the claim is stale
_PORTION = 20
#: claims of one sweep
_PORTIONS = 10


def sweep(index: Index, blobs: Blobs) -> int:
    """Delete images that are due, at most 200, and return how many.

    Raises redis.exceptions.RedisError and StoreUnavailable; what is claimed then is deleted by a later sweep.
    """
    count = 0
    for _ in range(_PORTIONS):
        claimed, references = index.claim(_PORTION)
        for reference in references:
            # not if this process was stopped for long after the claim: somebody may store the image again by now
            if index.may_delete(claimed, reference):
                blobs.delete(blob_name(reference))
                index.deleted(claimed, reference)
                count += 1
        if len(references) < _PORTION:
            break
    blobs.tidy()
    return count
