"""A pool of child processes that decode encoded images to RGB pixels within limits.

Knows nothing of Celery, jobs or the model. A thread per child waits for it, so an image that ends its child delays no
other image.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from queue import LifoQueue

from vqa.errors import DeadlineExceeded, EngineError, NotReady
from workers.engine.image import Fit, RGBImage
from workers.media.decoder import DECODE_TIMEOUT_S, Decoder
from workers.media.image import ImageLimits


class DecoderPool:
    """Decodes images for any number of threads until it is closed."""

    def __init__(
        self,
        processes: int,
        max_bytes: int,
        max_pixels: int,
        useful_pixels: int,
        fit: Fit | None = None,
        timeout_s: float = DECODE_TIMEOUT_S,
    ) -> None:
        """Start the processes and wait until they can decode. Raises NotReady.

        Images over `max_bytes` or `max_pixels` are refused. `useful_pixels` is the most that the model sees of an
        image; with `fit`, images are scaled as the model's own image processor would scale them. `timeout_s` is for
        one image.
        """
        limits = ImageLimits(max_bytes, max_pixels, useful_pixels, fit)
        self._decoders = [Decoder(limits, timeout_s) for _ in range(processes)]
        #: last in, first out: the memory of the last one used is warm
        self._idle: LifoQueue[Decoder] = LifoQueue()
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="media")
        try:
            for step in (Decoder.start, Decoder.wait_ready):
                for decoder in self._decoders:
                    step(decoder)
        except EngineError as error:
            self.close()
            raise NotReady(str(error)) from None
        for decoder in self._decoders:
            self._idle.put(decoder)

    def decode(self, images: Sequence[bytes], deadline: float = math.inf) -> list[RGBImage]:
        """Decode the images and return them in order; `deadline` is a time of `time.monotonic()`.

        Raises BadImage, DeadlineExceeded, and EngineError once the pool is closed.
        """
        try:
            futures = [self._threads.submit(self._decode, data) for data in images]
        except RuntimeError:
            raise EngineError("the worker is stopping") from None
        timeout_s = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        _, unfinished = wait(futures, timeout_s, FIRST_EXCEPTION)
        try:
            _raise_first(futures)
            if unfinished:
                raise DeadlineExceeded("the deadline passed before the images were decoded")
            return [future.result() for future in futures]
        finally:
            for future in unfinished:
                future.cancel()

    def close(self) -> None:
        """End the processes; images that are not decoded yet fail with EngineError."""
        # cancel_futures would cancel futures without waking the threads that wait for them
        self._threads.shutdown(wait=False)
        for decoder in self._decoders:
            decoder.close()

    def _decode(self, data: bytes) -> RGBImage:
        # there are as many decoders as threads, so one is always idle
        decoder = self._idle.get()
        try:
            return decoder.decode(data)
        finally:
            self._idle.put(decoder)


def _raise_first(futures: Sequence[Future[RGBImage]]) -> None:
    for future in futures:
        if future.done() and (error := future.exception()):
            raise error
