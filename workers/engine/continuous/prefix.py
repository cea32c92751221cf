"""Hashes of a prompt's blocks: equal ones hold the same keys and values in the KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from torch import Tensor

from workers.engine.continuous.requests import ImageSpan

_HASH_BYTES = 16


def block_hashes(tokens: Tensor, images: Sequence[ImageSpan], block_size: int, salt: str) -> tuple[bytes, ...]:
    """Return a hash of each full block of a prompt; `tokens` (n) are int64.

    A block's keys and values depend on all tokens before it, so its hash covers the hash of the block before, as in
    vLLM's v1/core/kv_cache_utils.py. Image tokens all have one id, so it covers what is seen there, too. Positions
    follow from both. Prompts with other salts have other hashes.
    """
    data, width = tokens.numpy().tobytes(), tokens.element_size() * block_size
    seen: dict[int, bytes] = {}
    for image in images:
        about = f"{image.digest} {image.rows} {image.columns} {image.start};".encode()
        for number in range(image.start // block_size, -(-image.stop // block_size)):
            seen[number] = seen.get(number, b"") + about
    hashes: list[bytes] = []
    last = blake2b(salt.encode(), digest_size=_HASH_BYTES).digest()
    for number in range(len(tokens) // block_size):
        # the parts before the images have fixed lengths, so no two blocks give the same bytes
        content = last + data[number * width : (number + 1) * width] + seen.get(number, b"")
        last = blake2b(content, digest_size=_HASH_BYTES).digest()
        hashes.append(last)
    return tuple(hashes)
