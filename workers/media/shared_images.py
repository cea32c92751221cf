"""Shares decoded images among jobs: a file whose image another job still holds, or waits for, is not decoded again.

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

#: the images of one file
Images = tuple[RGBImage, ...]


class SharedImages:
    """Images by their files' contents and what was asked of them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decoding: dict[ImageRequest, Future[Images]] = {}
        #: of files with one image: those with several are rare
        self._decoded: WeakValueDictionary[ImageRequest, RGBImage] = WeakValueDictionary()

    def get(self, data: bytes, request: ImageRequest, decode: Callable[[], Images]) -> Images:
        """Return the images of the file `data`, by `decode` unless they are there or another thread decodes them.

        Raises what `decode` raises. If it does so in the other thread, the reason may be that thread's job, for example
        its deadline, so this one calls it, too.
        """
        if request.video is not None:
            return decode()
        key = request.with_content(sha256(data).digest())
        with self._lock:
            if (image := self._decoded.get(key)) is not None:
                return (image,)
            other = self._decoding.get(key)
            if other is None:
                mine: Future[Images] = Future()
                self._decoding[key] = mine
        if other is not None:
            return decode() if other.exception() else other.result()
        try:
            images = decode()
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
