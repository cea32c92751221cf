"""Image features, computed for many images at once and cached for the next question about the same image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

from torch import Tensor

from workers.engine.continuous.requests import ImageSpan


class ImageFeatures:
    """LRU cache of the vision tower's outputs by image digest. Belongs to the engine's thread."""

    def __init__(self, encode_images: Callable[[Sequence[ImageSpan]], list[Tensor]], max_bytes: int) -> None:
        """Compute features by `encode_images`; cache at most `max_bytes` that no prompt needs any more."""
        self._encode_images = encode_images
        self._max_bytes = max_bytes
        self._cached: OrderedDict[str, Tensor] = OrderedDict()
        #: images computed, and images found in the cache
        self.computed = self.reused = 0

    def get(self, images: Sequence[ImageSpan], needed_later: Collection[str]) -> dict[str, Tensor]:
        """Return (1 + deepstack layers, tokens, H) by digest; keep `needed_later` at least until the next call."""
        wanted = {image.digest: image for image in images}
        found = {digest: self._cached[digest] for digest in wanted if digest in self._cached}
        missing = [image for digest, image in wanted.items() if digest not in found]
        self.computed += len(missing)
        self.reused += len(images) - len(missing)
        if missing:
            computed = self._encode_images(missing)
            found.update({image.digest: each for image, each in zip(missing, computed, strict=True)})
        self._store(found, needed_later)
        return found

    def _store(self, found: dict[str, Tensor], needed_later: Collection[str]) -> None:
        for digest, each in found.items():
            if self._max_bytes or digest in needed_later:
                # a copy: a new tensor is a view of one for all images of its pass
                self._cached[digest] = each.contiguous() if digest not in self._cached else self._cached.pop(digest)
        size = sum(each.nbytes for each in self._cached.values())
        for digest in list(self._cached):
            if size <= self._max_bytes:
                break
            if digest not in needed_later:
                size -= self._cached.pop(digest).nbytes
