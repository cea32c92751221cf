"""A file as a response."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping

from fastapi.responses import StreamingResponse
from starlette.types import Send

from vqa.errors import VQAError
from vqa.redis.connection import REDIS_ERRORS

log = logging.getLogger(__name__)


class Download(StreamingResponse):
    """Sends content while it is read. If reading fails, the response is cut off, so that the client notices."""

    def __init__(self, first: bytes, rest: AsyncIterator[bytes], headers: Mapping[str, str]) -> None:
        async def content() -> AsyncIterator[bytes]:
            yield first
            async for piece in rest:
                yield piece

        super().__init__(content(), media_type="application/octet-stream", headers=headers)

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except (VQAError, *REDIS_ERRORS) as error:
            # the server closes the connection of a response without an end
            log.warning("a download is cut off; its client has to repeat it: %s: %s", type(error).__name__, error)
