"""What an image costs Redis that holds it, against one that only lists images of a folder or bucket."""

from __future__ import annotations

import tempfile
from pathlib import Path

from redis import Redis

from bench.media.images import photo, renewed
from bench.scaling.figures import Found, Spread
from bench.scaling.usage import Usage
from producer.demo.redis_server import EmbeddedRedis
from vqa.images.store import ImageStore

IMAGES = 300
REPEATS = 5
#: 1024 x 768 pixels: about 215 kB
_SIZE = (1024, 768)


def measure(images: int = IMAGES, repeats: int = REPEATS) -> Found:
    """Return us of Redis and bytes for an image that is stored once and read once."""
    found: dict[str, list[float]] = {}
    image = photo(1, *_SIZE)
    with EmbeddedRedis() as server, Redis.from_url(server.url) as redis, tempfile.TemporaryDirectory() as folder:
        stores = {"in Redis": None, "in a folder (VQA_IMAGES_URL)": Path(folder).as_uri()}
        for repeat in range(repeats):
            for where, url in stores.items():
                redis.flushdb()
                store = ImageStore.open(redis, url, 3600)
                before = Usage.read(redis)
                names = [store.put(renewed(image, f"{repeat}-{number}"), 60) for number in range(images)]
                written = Usage.read(redis)
                for name in names:
                    store.get(name)
                read = Usage.read(redis)
                for what, value in (
                    ("us of Redis to store it", written.since(before).cpu_s * 1e6),
                    ("us of Redis to read it", read.since(written).cpu_s * 1e6),
                    ("bytes to and from Redis", _bytes(read.since(before))),
                ):
                    found.setdefault(f"an image of {len(image) / 1000:.0f} kB {where}: {what}", []).append(
                        value / images
                    )
    return {what: Spread(runs) for what, runs in found.items()}


def _bytes(used: Usage) -> int:
    return used.in_bytes + used.out_bytes
