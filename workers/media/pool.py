"""A pool of child processes that decode encoded images to RGB pixels within limits.

Knows nothing of Celery, jobs or the model. Each child is waited for in a thread, so an image that ends its child delays
no other image. Images are fetched by these threads, so that few are held encoded, however many jobs wait.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from queue import LifoQueue

from vqa.errors import DeadlineExceeded, EngineError, NotReady
from vqa.images.fit import Fit
from workers.engine.image import RGBImage
from workers.media.budget import Budget, MediaPlan, fetchers
from workers.media.decoder import DECODE_TIMEOUT_S, Decoder
from workers.media.decoder_process import DecoderExited, NoMemory
from workers.media.image import ImageLimits


def _unknown(reference: str) -> bytes:
    raise ValueError("an image is given by its reference, and nothing to fetch it with")


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
        threads: int = 0,
    ) -> None:
        """Start the processes and wait until they can decode. Raises NotReady.

        Images over `max_bytes` or `max_pixels` are refused. `useful_pixels` is the most that the model sees of an
        image; with `fit`, images are scaled as the model's own image processor would scale them. `timeout_s` is for
        one image; `threads` have jobs at a time.
        """
        limits = ImageLimits(max_bytes, max_pixels, useful_pixels, fit)
        self.plan = MediaPlan.create(processes, threads, max_bytes, limits.decoding_bytes, limits.image_bytes)
        self._decoders = [Decoder(limits, timeout_s) for _ in range(processes)]
        #: last in, first out: the memory of the last one used is warm
        self._idle: LifoQueue[Decoder] = LifoQueue()
        self._decoding, self._pixels = Budget(self.plan.decoding_bytes), Budget(self.plan.pixel_bytes)
        self._threads = ThreadPoolExecutor(fetchers(processes), thread_name_prefix="media")
        try:
            for step in (Decoder.start, Decoder.wait_ready):
                for decoder in self._decoders:
                    step(decoder)
        except (EngineError, DecoderExited, NoMemory) as error:
            self.close()
            raise NotReady(f"an image decoder process does not start: {error}") from None
        for decoder in self._decoders:
            self._idle.put(decoder)

    def holding(self, images: int, deadline: float = math.inf) -> AbstractContextManager[None]:
        """Wait until there is memory for the pixels of so many images, and hold it.

        Raises DeadlineExceeded, and EngineError once the pool is closed.
        """
        return self._pixels.holding(images * self.plan.image_bytes, deadline) if images else nullcontext()

    def decode(
        self, images: Sequence[bytes | str], deadline: float = math.inf, fetch: Callable[[str], bytes] = _unknown
    ) -> list[RGBImage]:
        """Decode the images and return them in order; `deadline` is a time of `time.monotonic()`.

        `fetch` gets the bytes of an image that is given by its reference, in a thread of the pool. Raises what it
        raises, BadImage, DeadlineExceeded, and EngineError once the pool is closed.
        """
        try:
            futures = [self._threads.submit(self._decode, image, deadline, fetch) for image in images]
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
        for budget in (self._decoding, self._pixels):
            budget.close()
        for decoder in self._decoders:
            decoder.close()

    def _decode(self, image: bytes | str, deadline: float, fetch: Callable[[str], bytes]) -> RGBImage:
        data = fetch(image) if isinstance(image, str) else image
        # every decoder is used by one thread at a time
        decoder = self._idle.get()
        try:
            return decoder.decode(data, lambda needed: self._decoding.holding(needed, deadline))
        finally:
            self._idle.put(decoder)


def _raise_first(futures: Sequence[Future[RGBImage]]) -> None:
    for future in futures:
        if future.done() and (error := future.exception()):
            raise error
