"""Encoded bytes in, RGB images within limits out, decoded in a few child processes.

Knows nothing of Celery, of jobs or of the model; what it is told is how many pixels are of use, or the sizes that the
model sees. Each of its threads waits for a child at a time: where an image ends its child, no other one notices.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from queue import LifoQueue

from vqa.errors import DeadlineExceeded, EngineError, NotReady
from workers.engine.image import Fit, RGBImage
from workers.media.decoder import PATIENCE_S, Decoder
from workers.media.image import Limits


class Media:
    """Decodes images off the caller's thread; `close` when no more will come."""

    def __init__(
        self,
        processes: int,
        max_bytes: int,
        max_pixels: int,
        useful_pixels: int,
        fit: Fit | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Start the processes and wait until they can decode. Raises NotReady.

        `max_*` are the limits over which an image is refused, `useful_pixels` what the model sees of it at most; with
        `fit`, images are scaled as the model's own image processor would. `patience_s` is for one image.
        """
        limits = Limits(max_bytes, max_pixels, useful_pixels, fit)
        self._decoders = [Decoder(limits, patience_s) for _ in range(processes)]
        #: the one that was used last comes first: its memory is warm
        self._idle: LifoQueue[Decoder] = LifoQueue()
        self._pool = ThreadPoolExecutor(processes, thread_name_prefix="media")
        try:
            for begin in (Decoder.begin, Decoder.wait_ready):
                for decoder in self._decoders:
                    begin(decoder)
        except EngineError as error:
            self.close()
            raise NotReady(str(error)) from None
        for decoder in self._decoders:
            self._idle.put(decoder)

    def decode(self, images: Sequence[bytes], deadline: float = math.inf) -> list[RGBImage]:
        """The images, in order. Blocks; `deadline` is a point on `time.monotonic()`'s clock.

        Raises BadImage, DeadlineExceeded, and EngineError once closed.
        """
        try:
            pending = [self._pool.submit(self._decode, data) for data in images]
        except RuntimeError:
            raise EngineError("the worker is stopping") from None
        timeout_s = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        _, late = wait(pending, timeout_s, FIRST_EXCEPTION)
        try:
            _raise_first(pending)
            if late:
                raise DeadlineExceeded("the deadline passed before the images were decoded")
            return [image.result() for image in pending]
        finally:
            for image in late:
                image.cancel()

    def close(self) -> None:
        """End the processes; what is not yet decoded fails with EngineError."""
        # a future that the pool itself cancels would never wake who waits for it
        self._pool.shutdown(wait=False)
        for decoder in self._decoders:
            decoder.close()

    def _decode(self, data: bytes) -> RGBImage:
        # there are as many as threads, so one is always idle
        decoder = self._idle.get()
        try:
            return decoder.decode(data)
        finally:
            self._idle.put(decoder)


def _raise_first(images: Sequence[Future[RGBImage]]) -> None:
    for image in images:
        if image.done() and (error := image.exception()):
            raise error
