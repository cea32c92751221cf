"""Images that callers name by URL: fetched within bounds of memory, and so that no caller is in others' way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from producer.gateway.tasks import end_tasks
from producer.images.parts import Use
from producer.images.reader import ImageReader
from vqa.errors import BadImage, ImageUnavailable
from vqa.fetch.places import MOST, Places
from vqa.gateway_settings import GatewaySettings
from vqa.jobs.job import MOST_IMAGES
from vqa.jobs.message import MOST_FRAMES
from vqa.settings import QueueSettings

T = TypeVar("T")

#: bytes of images that this process fetches at once: each may have VQA_IMAGE_MAX_BYTES; and how many at most, which
#: the fetcher gives one caller: for it, this process is one
_IN_FLIGHT_BYTES, _MOST = 256 * 2**20, MOST // 2

#: images of one API key that are fetched at once, as far as more are left for others than it has
_OF_ONE_KEY = 4

#: of one request: more images, or frames of videos, no job may have
_MOST_URLS = MOST_IMAGES + MOST_FRAMES


class CallerImages:
    """Fetches images on the event loop. Close it."""

    def __init__(self, queue_settings: QueueSettings, settings: GatewaySettings, reader: ImageReader) -> None:
        self._reader = reader
        self._queue_settings = queue_settings
        #: of all images of one request
        self._request_bytes = settings.body_max_bytes
        most = min(_MOST, max(1, _IN_FLIGHT_BYTES // queue_settings.image_max_bytes))
        self._places = Places(most, of_host=most, of_caller=_OF_ONE_KEY)

    def close(self) -> None:
        self._reader.close()

    def check(self, url: str) -> None:
        """Raise BadImage if a URL, or a file:, is not allowed. No I/O."""
        self._reader.check_foreign(url)

    def is_left(self, url: str) -> bool:
        """Return whether the URL stays in the job, for the worker to fetch."""
        return self._reader.is_left(url)

    def timeout_s(self, fields: Mapping[str, Any]) -> float:
        """Return how long the images of a job with these fields may take: as long as the job, and no image."""
        lane, own = fields.get("lane"), fields.get("timeout_s")
        of_lane = self._queue_settings.timeout_s("bulk" if lane == "bulk" else "interactive")
        job_s = own if isinstance(own, int | float) and own > 0 else of_lane
        return min(job_s, self._reader.fetch_settings.timeout_s)

    async def fetch(self, urls: Mapping[str, Use], key_id: str, timeout_s: float) -> dict[str, bytes]:
        """Return the images of one request, given its URLs and how each is shown, within `timeout_s`.

        The first that fails ends the others. Raises BadImage; ImageUnavailable if another attempt may succeed.
        """
        if len(urls) > _MOST_URLS:
            raise BadImage(f"the request names {len(urls):,} images by URL; a job has at most {_MOST_URLS}")
        left = self._request_bytes

        async def one(url: str, use: Use) -> bytes:
            nonlocal left
            data = await self._one(url, use, key_id, timeout_s)
            left -= len(data)
            if left < 0:
                limit = f"{self._request_bytes:,} bytes together (VQA_GATEWAY_BODY_MAX_BYTES)"
                raise BadImage(f"the images of the request have over {limit}")
            return data

        return await self._gather(urls, one)

    async def fetch_each(
        self, urls: Mapping[str, Use], key_id: str, timeout_s: float
    ) -> dict[str, bytes | BadImage | ImageUnavailable]:
        """Return each image, or why it cannot be fetched."""

        async def one(url: str, use: Use) -> bytes | BadImage | ImageUnavailable:
            try:
                return await self._one(url, use, key_id, timeout_s)
            except (BadImage, ImageUnavailable) as error:
                return error

        return await self._gather(urls, one)

    async def _gather(self, urls: Mapping[str, Use], one: Callable[[str, Use], Coroutine[Any, Any, T]]) -> dict[str, T]:
        tasks = [asyncio.create_task(one(url, use)) for url, use in urls.items()]
        try:
            return dict(zip(urls, await asyncio.gather(*tasks), strict=True))
        finally:
            await end_tasks(*tasks)

    async def _one(self, url: str, use: Use, key_id: str, timeout_s: float) -> bytes:
        end = asyncio.get_running_loop().time() + timeout_s
        try:
            # without keys all requests are one caller's. The fetcher counts the images of each host
            async with self._places.place("", key_id or None, timeout_s):
                left_s = max(0.001, end - asyncio.get_running_loop().time())
                return await self._reader.fetch(url, left_s, use)
        except TimeoutError:
            raise ImageUnavailable("too many images are fetched at the moment; send the request again later") from None
