"""JPEG images that cost as much to decode as photographs: smooth shapes under fine grain, all different."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

#: size of a blob in pixels, and the standard deviation of its brightness
_SCALES = ((96, 60), (24, 25), (6, 10))
#: an image of 1024 x 768 pixels then has about 215 kB
_GRAIN = 4
_QUALITY = 90


def photo(seed: int, width: int, height: int) -> bytes:
    """Return the JPEG for this seed and size; the same arguments give the same bytes."""
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
    """Return one image of each size (width, height), drawn on all cores, as numpy and Pillow release the lock."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(photo, range(len(sizes)), *zip(*sizes, strict=True)))


def renewed(image: bytes, mark: str) -> bytes:
    """Return the same pixels in different bytes, so that no cache helps; decoders ignore what follows the image."""
    return image + f"\0{mark}".encode()
