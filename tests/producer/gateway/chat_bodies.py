"""Bodies of chat requests, and what tests look up beside the gateway."""

import base64
import io
from typing import Any

from PIL import Image
from redis import Redis

from tests.producer.conftest import wait_until
from vqa.ledger.ledger import DEADLINES


def image_url(colour: str = "teal") -> str:
    return "data:image/png;base64," + base64.b64encode(image_bytes(colour)).decode()


def image_bytes(colour: str = "teal") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, "PNG")
    return buffer.getvalue()


def chat(text: str = "What is it?", *images: str, **fields: Any) -> dict[str, Any]:
    """A body with one message."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return {
        "model": "any",
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}],
    } | fields


def slow(seconds: float, **fields: Any) -> dict[str, Any]:
    """A body whose answer takes so long; its first word comes at once."""
    return chat(f"Slowly, {seconds}", metadata={"echo_delay_s": str(seconds)}, **fields)


def open_ids(redis: Redis) -> set[str]:
    return {id.decode() for id in redis.zrange(DEADLINES, 0, -1)}


def new_open_id(redis: Redis, before: set[str]) -> str:
    """Wait for the only job that was not open before."""
    wait_until(lambda: open_ids(redis) - before, "the job is open")
    [id] = open_ids(redis) - before
    return id
