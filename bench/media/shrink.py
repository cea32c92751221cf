"""200 photos of 12 megapixels submitted whole, shrunk without loss and shrunk to JPEG; to Redis and to a folder.

python -m bench.media.shrink
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import cast

from PIL import Image, ImageChops, ImageStat
from redis import Redis

from bench.media.images import photo
from producer.demo.redis_server import EmbeddedRedis
from vqa.images.fit import Fit
from vqa.settings import QueueSettings
from workers.media.limits import ImageLimits
from workers.media.source import decode

PHOTOS, SCENES = 200, 4
SIZE = (4000, 3000)
TOKENS = 1024
#: images that a worker's decoding is timed with
TIMED = 20

WAYS = {
    "whole": (),
    "without loss": ("--shrink", "--shrink-tokens", str(TOKENS)),
    "JPEG 95": ("--shrink", "--shrink-tokens", str(TOKENS), "--shrink-quality", "95"),
}


def main() -> None:
    """Print one JSON object per way and place."""
    with TemporaryDirectory() as name, EmbeddedRedis() as server:
        folder = Path(name) / "photos"
        folder.mkdir()
        made = sum((folder / f"{number:03}.jpg").write_bytes(data) for number, data in enumerate(photos()))
        print(json.dumps({"photos": PHOTOS, "MB": round(made / 1e6, 1), "cores": os.cpu_count()}), flush=True)
        with Redis.from_url(server.url) as redis:
            for place in (None, Path(name) / "store"):
                for way, options in WAYS.items():
                    redis.flushall()
                    took_s = _submit(server.url, folder, place, options)
                    stored = _stored(redis, place)
                    figures = {"way": way, "place": "folder" if place else "Redis", "submitted_s": round(took_s, 2)}
                    figures |= {"stored_MB": round(sum(map(len, stored)) / 1e6, 1)}
                    decoded_ms, _ = _decode(stored[:TIMED])
                    print(json.dumps(figures | {"decode_ms": round(decoded_ms, 1)}), flush=True)
        _compare(folder)


def photos() -> Iterator[bytes]:
    """Yield photos that differ in all pixels: a few, moved around."""
    chance = Random(0)
    for number in range(PHOTOS):
        if number % (PHOTOS // SCENES) == 0:
            with Image.open(io.BytesIO(photo(number, *SIZE))) as scene:
                scene.load()
        file = io.BytesIO()
        ImageChops.offset(scene, *map(chance.randrange, SIZE)).save(file, "JPEG", quality=90)
        yield file.getvalue()


def _submit(redis_url: str, folder: Path, place: Path | None, options: tuple[str, ...]) -> float:
    environment = os.environ | {"VQA_REDIS_URL": redis_url} | ({"VQA_IMAGES_URL": place.as_uri()} if place else {})
    command = [sys.executable, "-m", "producer.cli.main", "submit", str(folder), "--question", "What is it?"]
    started = time.perf_counter()
    subprocess.run([*command, "--detach", *options], env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def _stored(redis: Redis, place: Path | None) -> list[bytes]:
    if place is None:
        keys = sorted(cast(list[bytes], redis.keys("vqa:image:*")))
        return [cast(bytes, redis.get(key)) for key in keys]
    files = sorted(path for path in place.rglob("*") if path.is_file())
    found = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    return found


def _decode(images: list[bytes]) -> tuple[float, list[Image.Image]]:
    """Decode as a worker does; return ms of processor time per image, and the images."""
    settings, fit = QueueSettings(), Fit(32, 65_536, TOKENS * 32**2)
    limits = ImageLimits.from_settings(settings, fit.max_pixels, fit)
    started = time.process_time()
    found = [decode(data, limits)[0].image for data in images]
    return (time.process_time() - started) * 1000 / len(images), found


def _compare(folder: Path) -> None:
    """Print how far the pixels that the model sees are from those of the whole photos, and the time of shrinking."""
    from producer.images.shrink import shrunk

    fit, files = Fit(32, 65_536, TOKENS * 32**2), QueueSettings().image_limits
    paths = sorted(folder.iterdir())[:TIMED]
    for way, quality in (("without loss", None), ("JPEG 95", 95)):
        differences, took_s = [], 0.0
        for path in paths:
            data = path.read_bytes()
            started = time.process_time()
            small = shrunk(data, fit, files, quality)
            took_s += time.process_time() - started
            whole, smaller = (_decode([each])[1][0] for each in (data, small))
            differences.append(ImageStat.Stat(ImageChops.difference(whole, smaller)))
        mean = max(sum(each.mean) / 3 for each in differences)
        most = max(high for each in differences for _, high in each.extrema)
        figures = {"mean_difference": round(mean, 3), "largest": most, "shrink_ms": round(took_s * 1000 / TIMED)}
        print(json.dumps({"way": way} | figures), flush=True)


if __name__ == "__main__":
    main()
