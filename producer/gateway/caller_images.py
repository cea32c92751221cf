"""Images that callers name by URL: fetched within bounds of memory, and so that no caller is in others' way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from producer.gateway.tasks import end_tasks
from producer.images.parts import Use
from producer.images.reader import ImageReader
from vqa.errors import BadImage, ImageUnavailable
from vqa.gateway_settings import GatewaySettings
from vqa.job import MOST_IMAGES
from vqa.message import MOST_FRAMES
from vqa.settings import QueueSettings

T = TypeVar("T")

#: bytes of images that this process fetches at once: each may have VQA_IMAGE_MAX_BYTES
_IN_FLIGHT_BYTES = 256 * 2**20

#: images of one API key that are fetched at once; without keys all requests are one caller's
_OF_ONE_KEY = 4

#: of one request: more images, or frames of videos, no job may have
_MOST_URLS = MOST_IMAGES + MOST_FRAMES


@dataclass(slots=True)
class _Key:
    places: asyncio.Semaphore
    #: requests that fetch
    users: int = 0


class CallerImages:
    """Fetches images on the event loop. Close it."""

    def __init__(self, queue_settings: QueueSettings, settings: GatewaySettings, reader: ImageReader) -> None:
        self._reader = reader
        self._queue_settings = queue_settings
        #: of all images of one request
        self._request_bytes = settings.body_max_bytes
        self._at_once = max(1, _IN_FLIGHT_BYTES // queue_settings.image_max_bytes)
        self._places = asyncio.Semaphore(self._at_once)
        self._keys: dict[str, _Key] = {}

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

        async def one(url: str, use: Use, mine: asyncio.Semaphore) -> bytes:
            nonlocal left
            data = await self._one(url, use, mine, timeout_s)
            left -= len(data)
            if left < 0:
                limit = f"{self._request_bytes:,} bytes together (VQA_GATEWAY_BODY_MAX_BYTES)"
                raise BadImage(f"the images of the request have over {limit}")
            return data

        return await self._gather(urls, key_id, one)

    async def fetch_each(
        self, urls: Mapping[str, Use], key_id: str, timeout_s: float
    ) -> dict[str, bytes | BadImage | ImageUnavailable]:
        """Return each image, or why it cannot be fetched."""

        async def one(url: str, use: Use, mine: asyncio.Semaphore) -> bytes | BadImage | ImageUnavailable:
            try:
                return await self._one(url, use, mine, timeout_s)
            except (BadImage, ImageUnavailable) as error:
                return error

        return await self._gather(urls, key_id, one)

    async def _gather(
        self, urls: Mapping[str, Use], key_id: str, one: Callable[[str, Use, asyncio.Semaphore], Coroutine[Any, Any, T]]
    ) -> dict[str, T]:
        async with self._places_of(key_id) as mine:
            tasks = [asyncio.create_task(one(url, use, mine)) for url, use in urls.items()]
            try:
                return dict(zip(urls, await asyncio.gather(*tasks), strict=True))
            finally:
                await end_tasks(*tasks)

    @asynccontextmanager
    async def _places_of(self, key_id: str) -> AsyncIterator[asyncio.Semaphore]:
        limit = _OF_ONE_KEY if key_id else self._at_once
        key = self._keys.setdefault(key_id, _Key(asyncio.Semaphore(limit)))
        key.users += 1
        try:
            yield key.places
        finally:
            key.users -= 1
            if not key.users:
                self._keys.pop(key_id, None)

    async def _one(self, url: str, use: Use, mine: asyncio.Semaphore, timeout_s: float) -> bytes:
        end = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(end) as waiting, mine, self._places:
                waiting.reschedule(None)
                left_s = max(0.001, end - asyncio.get_running_loop().time())
                return await self._reader.fetch(url, left_s, use)
        except TimeoutError:
            raise ImageUnavailable("too many images are fetched at the moment; send the request again later") from None
