"""Images in a folder or bucket, with an index in Redis that says when each may be deleted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from redis import Redis

from vqa.images.stores.blobs import Blobs, blob_name
from vqa.images.stores.contents import StoreUnavailable
from vqa.images.stores.index import DELETION_S, Index, State
from vqa.images.stores.redis_contents import RedisContents

T = TypeVar("T")

#: requests at the same time of one call
_THREADS = 8

#: between two looks at an image that is being deleted
_PAUSE_S = 0.05


class IndexedContents:
    """Contents over blobs and an index.

    Images that are not there are looked for in Redis: those of jobs from before VQA_IMAGES_URL was set, and those that
    programs in other languages store there (docs/wire.md).
    """

    def __init__(self, redis: Redis, blobs: Blobs) -> None:
        self._index = Index(redis)
        self._blobs = blobs
        self._in_redis = RedisContents(redis)

    def write(self, contents: Mapping[str, bytes], keep_s: Mapping[str, int]) -> Mapping[str, int | None]:
        states = self._enter(contents, keep_s)
        _all(lambda name: self._put(name, contents[name], states[name]), states.keys() & contents.keys())
        named = [name for name in keep_s if name not in contents]
        sizes = dict(zip(named, _all(self._size, named), strict=True))
        # there, but Redis has lost the index; or being deleted, and gone once they are entered
        lost = [name for name in named if states[name] == "absent" and sizes[name] is not None]
        self._enter(lost, {name: keep_s[name] for name in lost})
        sizes |= zip(lost, _all(self._size, lost), strict=True)
        elsewhere = {name: keep_s[name] for name in named if sizes[name] is None}
        return {**sizes, **self._in_redis.write({}, elsewhere)}

    def _enter(self, names: Iterable[str], keep_s: Mapping[str, int]) -> dict[str, State]:
        """Enter the images in the index; wait for deletions that have begun, so that what follows is not deleted."""
        names = set(names)
        states = self._index.keep(keep_s, names)
        # a claim that is stale by then is not waited for
        end = time.monotonic() + 2 * DELETION_S
        while going := {name: keep_s[name] for name, state in states.items() if state == "going"}:
            if time.monotonic() > end:
                raise StoreUnavailable("an image is being deleted, and does not go (VQA_IMAGES_URL)")
            time.sleep(_PAUSE_S)
            states |= self._index.keep(going, names)
        return states

    def _put(self, name: str, data: bytes, state: State) -> None:
        # a known one may be missing: its writer was killed, or is not done
        if state == "new" or self._size(name) != len(data):
            self._blobs.put(blob_name(name), data)

    def _size(self, name: str) -> int | None:
        return self._blobs.size(blob_name(name))

    def read(self, references: Sequence[str]) -> Sequence[bytes | None]:
        found = dict(zip(references, _all(lambda name: self._blobs.get(blob_name(name)), references), strict=True))
        missing = [name for name, data in found.items() if data is None]
        found |= zip(missing, self._in_redis.read(missing), strict=True)
        self._require_unknown([name for name in missing if found[name] is None])
        return [found[name] for name in references]

    def _require_unknown(self, missing: Sequence[str]) -> None:
        """Raise StoreUnavailable if one should be there: a job is accepted only after its images are stored."""
        if self._index.known(missing):
            raise StoreUnavailable(
                "an image that its producer has stored is not in this process's folder or bucket; check that producers "
                "and workers have the same VQA_IMAGES_URL, and that a shared folder is mounted"
            )

    def sizes(self, references: Sequence[str]) -> Mapping[str, int | None]:
        sizes = dict(zip(references, _all(self._size, references), strict=True))
        return {**sizes, **self._in_redis.sizes([name for name, size in sizes.items() if size is None])}

    def delete(self, reference: str) -> None:
        self._blobs.delete(blob_name(reference))
        self._in_redis.delete(reference)


def _all(act: Callable[[str], T], names: Iterable[str]) -> list[T]:
    """Call `act` with each name, several at a time, and return the results in order."""
    names = list(names)
    if len(names) < 2:
        return [act(name) for name in names]
    # made for each call: a fork, or the end of the client, finds no threads
    with ThreadPoolExecutor(min(_THREADS, len(names)), thread_name_prefix="vqa-image-store") as pool:
        return list(pool.map(act, names))
