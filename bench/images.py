"""Images that cost what photographs cost: smooth shapes under fine grain, as JPEG, each its own."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

#: pixels across a blob, and how far it strays from grey
_SCALES = ((96, 60), (24, 25), (6, 10))
#: an image of 1024 x 768 then has about 215 kB
_GRAIN = 4
_QUALITY = 90


def photo(seed: int, width: int, height: int) -> bytes:
    """The JPEG of that seed and size."""
    draw = np.random.default_rng((seed, width, height))
    pixels = np.full((height, width, 3), 128, np.float32)
    for across, strength in _SCALES:
        small = draw.normal(0, strength, (3, max(2, height // across), max(2, width // across))).astype(np.float32)
        for channel in range(3):
            blobs = Image.fromarray(small[channel]).resize((width, height), Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(blobs)
    pixels += draw.normal(0, _GRAIN, (height, width, 1)).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def photos(sizes: Sequence[tuple[int, int]]) -> list[bytes]:
    """One of each size (width, height), all different, drawn on all cores: numpy and Pillow let go of the lock."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(photo, range(len(sizes)), *zip(*sizes, strict=True)))


def renewed(image: bytes, mark: str) -> bytes:
    """The same pixels in other bytes, so that nothing that was kept of the image is of use: read only to its end."""
    return image + f"\0{mark}".encode()
