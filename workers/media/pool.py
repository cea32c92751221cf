"""A pool of child processes that decode encoded images to RGB pixels within limits.

Knows nothing of Celery, jobs or the model. Each child is waited for in a thread, so an image that ends its child delays
no other image. Images are fetched by these threads, so that few are held encoded, however many jobs wait.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import starmap
from queue import LifoQueue

from vqa.errors import BadImage, DeadlineExceeded, EngineError, NotReady
from workers.media.budget import Budget, MediaPlan, fetchers
from workers.media.decoder import DECODE_TIMEOUT_S, Decoder
from workers.media.decoder_process import DecoderExited, NoMemory, NotAdmitted
from workers.media.limits import ImageLimits
from workers.media.request import ImageRequest
from workers.media.shared_images import Images, SharedImages

#: gets the bytes of a file that is given by its reference
Fetch = Callable[[str], bytes]


def _unknown(reference: str) -> bytes:
    raise ValueError("an image is given by its reference, and nothing to fetch it with")


class DecoderPool:
    """Decodes images for any number of threads until it is closed."""

    def __init__(
        self, processes: int, limits: ImageLimits, timeout_s: float = DECODE_TIMEOUT_S, threads: int = 0
    ) -> None:
        """Start the processes and wait until they can decode. Raises NotReady.

        `timeout_s` is for one file; `threads` have jobs at a time.
        """
        self._limits = limits
        self.plan = MediaPlan.create(processes, threads, limits)
        self._decoders = [Decoder(limits, timeout_s) for _ in range(processes)]
        #: last in, first out: the memory of the last one used is warm
        self._idle: LifoQueue[Decoder] = LifoQueue()
        self._shared = SharedImages()
        self._decoding, self._pixels = Budget(self.plan.decoding_bytes), Budget(self.plan.pixel_bytes)
        self._threads = ThreadPoolExecutor(fetchers(processes), thread_name_prefix="media")
        # a video may take half a minute: images always have a process without one
        self._video_threads = ThreadPoolExecutor(max(1, processes - 1), thread_name_prefix="video")
        try:
            for step in (Decoder.start, Decoder.wait_ready):
                for decoder in self._decoders:
                    step(decoder)
        except (EngineError, DecoderExited, NoMemory) as error:
            self.close()
            raise NotReady(f"an image decoder process does not start: {error}") from None
        for decoder in self._decoders:
            self._idle.put(decoder)

    @property
    def processes(self) -> int:
        return len(self._decoders)

    @property
    def busy(self) -> int:
        """How many processes decode now. Thread-safe."""
        return len(self._decoders) - self._idle.qsize()

    @contextmanager
    def decoded(
        self, requests: Sequence[ImageRequest], deadline: float = math.inf, fetch: Fetch = _unknown
    ) -> Iterator[list[Images]]:
        """Decode as `decode` does, and hold memory for the images until the context ends.

        A file counts as one image, and a video as all that it may have. If files turn out to have more, memory for all
        is waited for, and all are decoded again: a job that waited for more while it holds some could wait for ever.
        Raises what `decode` raises.
        """
        self._check_videos(requests)
        counts = [request.video.max_frames if request.video else 1 for request in requests]
        with self._holding(requests, counts, deadline):
            images, found = self._decode_all(requests, deadline, fetch, counts)
            if all(number <= count for number, count in zip(found, counts, strict=True)):
                yield images
                return
            del images
        with self._holding(requests, found, deadline):
            yield self.decode(requests, deadline, fetch)

    def decode(
        self, requests: Sequence[ImageRequest], deadline: float = math.inf, fetch: Fetch = _unknown
    ) -> list[Images]:
        """Decode the files and return the images of each, in order; `deadline` is a time of `time.monotonic()`.

        `fetch` is called in a thread of the pool. Raises what it raises, BadImage, DeadlineExceeded, and EngineError
        once the pool is closed.
        """
        images, _ = self._decode_all(requests, deadline, fetch, None)
        return images

    def close(self) -> None:
        """End the processes; images that are not decoded yet fail with EngineError."""
        # cancel_futures would cancel futures without waking the threads that wait for them
        for threads in (self._threads, self._video_threads):
            threads.shutdown(wait=False)
        for budget in (self._decoding, self._pixels):
            budget.close()
        for decoder in self._decoders:
            decoder.close()

    def _holding(
        self, requests: Sequence[ImageRequest], counts: Sequence[int], deadline: float
    ) -> AbstractContextManager[None]:
        """Wait until there is memory for the pixels of so many images of each file, and hold it."""
        amount = sum(starmap(self._limits.pixel_bytes, zip(requests, counts, strict=True)))
        return self._pixels.holding(amount, deadline) if amount else nullcontext()

    def _decode_all(
        self, requests: Sequence[ImageRequest], deadline: float, fetch: Fetch, counts: list[int] | None
    ) -> tuple[list[Images], list[int]]:
        """Return the images of each file, and how many each has. None of files with more than `counts` is decoded."""
        decoding = [_Decoding(request, counts[number] if counts else None) for number, request in enumerate(requests)]
        try:
            futures = [self._start(each, deadline, fetch) for each in decoding]
        except RuntimeError:
            raise EngineError("the worker is stopping") from None
        timeout_s = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        _, unfinished = wait(futures, timeout_s, FIRST_EXCEPTION)
        try:
            _raise_first(futures)
            if unfinished:
                raise DeadlineExceeded("the deadline passed before the images were decoded")
            found = [each.found for each in decoding]
            self._check_count(requests, found)
            return [future.result() for future in futures], found
        finally:
            for future in unfinished:
                future.cancel()

    def _start(self, each: _Decoding, deadline: float, fetch: Fetch) -> Future[Images]:
        if (images := self._shared.find(each.request)) is not None:
            each.found = len(images)
            future: Future[Images] = Future()
            future.set_result(images)
            return future
        threads = self._video_threads if each.request.video else self._threads
        return threads.submit(self._decode, each, deadline, fetch)

    def _check_videos(self, requests: Sequence[ImageRequest]) -> None:
        """Raise BadImage for videos whose pixels `_pixels` could not bound, as it admits whatever comes alone."""
        videos = [request for request in requests if request.video or request.frame]
        amount, most = sum(self._limits.pixel_bytes(request, 1) for request in videos), self.plan.pixel_bytes
        if amount > most:
            raise BadImage(
                f"the job's videos may have {amount >> 20:,} MiB of pixels; the worker has memory for "
                f"{most >> 20:,} MiB. Send fewer videos, or set max_image_tokens"
            )

    def _check_count(self, requests: Sequence[ImageRequest], found: Sequence[int]) -> None:
        images = sum(
            number
            for request, number in zip(requests, found, strict=True)
            if request.video is None and request.frame is None
        )
        if images > self._limits.max_images:
            raise BadImage(
                f"the job has {images} images, each page counted; the limit is {self._limits.max_images} "
                "(VQA_IMAGE_MAX_COUNT)"
            )

    def _decode(self, each: _Decoding, deadline: float, fetch: Fetch) -> Images:
        def read() -> bytes:
            content = each.request.content
            return fetch(content) if isinstance(content, str) else content

        def admit(needed: int, count: int) -> AbstractContextManager[None]:
            each.found = count
            if each.most is not None and count > each.most:
                raise NotAdmitted
            return self._decoding.holding(needed, deadline)

        def decode(data: bytes) -> Images:
            # every decoder is used by one thread at a time
            decoder = self._idle.get()
            try:
                return decoder.decode(data, admit, each.request)
            finally:
                self._idle.put(decoder)

        try:
            images = self._shared.get(each.request, read, decode)
        except NotAdmitted:
            return ()
        # those of another job, which `admit` did not count
        each.found = len(images)
        return images if each.most is None or each.found <= each.most else ()


@dataclass(slots=True, eq=False)
class _Decoding:
    request: ImageRequest
    #: a file with more images is not decoded; None for any number
    most: int | None
    #: images in the file, as asked for
    found: int = 0


def _raise_first(futures: Sequence[Future[Images]]) -> None:
    for future in futures:
        if future.done() and (error := future.exception()):
            raise error
