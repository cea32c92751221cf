"""Shares decoded images among jobs: a file whose image another job still holds, or waits for, is not decoded again.

Nor is it fetched again, if its reference says what is in it.

Jobs with many questions about one image come one after another, so this spares most of the decoding. It takes no
memory of its own: images are referred to weakly, and live as long as the jobs that hold them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from hashlib import sha256
from weakref import WeakValueDictionary

from workers.engine.image import RGBImage
from workers.media.request import ImageRequest

#: how the references begin that say what is in the file (`vqa.images.store.reference`)
_SHA256 = "sha256:"

#: the images of one file
Images = tuple[RGBImage, ...]


class SharedImages:
    """Images by their files' contents and what was asked of them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decoding: dict[ImageRequest, Future[Images]] = {}
        #: of files with one image: those with several are rare
        self._decoded: WeakValueDictionary[ImageRequest, RGBImage] = WeakValueDictionary()

    def find(self, request: ImageRequest) -> Images | None:
        """Return the image of a file whose reference says what is in it, if it is there."""
        digest = _named_digest(request.content)
        image = None if digest is None else self._decoded.get(request.with_content(digest))
        return None if image is None else (image,)

    def get(self, request: ImageRequest, read: Callable[[], bytes], decode: Callable[[bytes], Images]) -> Images:
        """Return the images of the file that `read` gets, by `decode` unless they are there or another thread decodes.

        Raises what these raise. If they do so in the other thread, the reason may be that thread's job, for example its
        deadline, so this one calls them, too.
        """
        if request.video is not None:
            return decode(read())
        digest, data = _named_digest(request.content), None
        if digest is None:
            data = read()
            digest = sha256(data).digest()
        key = request.with_content(digest)
        with self._lock:
            if (image := self._decoded.get(key)) is not None:
                return (image,)
            other = self._decoding.get(key)
            if other is None:
                mine: Future[Images] = Future()
                self._decoding[key] = mine
        if other is not None:
            return decode(data or read()) if other.exception() else other.result()
        try:
            images = decode(data or read())
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(images)
            return images
        finally:
            with self._lock:
                del self._decoding[key]
                if mine.exception() is None and len(mine.result()) == 1:
                    self._decoded[key] = mine.result()[0]


def _named_digest(content: bytes | str) -> bytes | None:
    """Return the SHA-256 in a reference into the image store."""
    if isinstance(content, str) and content.startswith(_SHA256):
        return bytes.fromhex(content.removeprefix(_SHA256))
    return None
