"""Checks of images' bytes by their header, before they are stored: what is no image never reaches a worker."""

from __future__ import annotations

from producer.images.parts import IMAGE, Use
from vqa.errors import BadImage
from vqa.fetch.magic import is_visual
from vqa.images.file import read_header
from vqa.images.pages import page_range
from vqa.settings import QueueSettings


def check_content(data: bytes, settings: QueueSettings, use: Use = IMAGE, name: str = "") -> None:
    """Raise BadImage unless the bytes begin as what they are shown as, within the limits.

    The message starts with `name`.
    """
    for pages in use.pages:
        read_header(data, settings.image_limits, name, page_range(pages))
    if use.video:
        start = f"{name}: " if name else ""
        if len(data) > settings.image_max_bytes:
            limit = f"the limit is {settings.image_max_bytes:,} (VQA_IMAGE_MAX_BYTES)"
            raise BadImage(f"{start}the video has {len(data):,} bytes; {limit}")
        if not is_visual(data):
            raise BadImage(f"{start}not a video, or of a kind that is not known")
