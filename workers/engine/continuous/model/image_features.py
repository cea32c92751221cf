"""Image features, computed for many images at once and kept for the next question about the same image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from workers.engine.continuous.requests import ImageSpan

#: Tokens at the end of an image that are kept when the whole is no longer. A prompt finds the full blocks of its
#: beginning in the KV cache, and computes at most the image tokens of the block in which its last image ends.
TAIL = 64


@dataclass(frozen=True, slots=True)
class ImageRows:
    """Tokens `begin` up to `end` of an image."""

    image: ImageSpan
    begin: int
    end: int

    @property
    def are_all(self) -> bool:
        return self.end - self.begin == self.image.tokens


class _Kept:
    """Features by image digest, those used least recently first, and their bytes."""

    def __init__(self) -> None:
        self._features: OrderedDict[str, Tensor] = OrderedDict()
        # counted, because small images are kept by the thousand
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._features)

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def get(self, digest: str) -> Tensor | None:
        """Return an image's features, which are now those used last."""
        if (found := self._features.get(digest)) is not None:
            self._features.move_to_end(digest)
        return found

    def put(self, digest: str, features: Tensor) -> None:
        if digest in self._features:
            self.pop(digest)
        self._features[digest] = features
        self.nbytes += features.nbytes

    def pop(self, digest: str) -> Tensor:
        found = self._features.pop(digest)
        self.nbytes -= found.nbytes
        return found


class ImageFeatures:
    """LRU cache of the vision tower's outputs by image digest. Belongs to the engine's thread.

    The images used least recently shrink to their ends, of which as many are kept as half of the memory holds.
    """

    def __init__(
        self, encode_images: Callable[[Sequence[ImageSpan]], Iterator[tuple[ImageSpan, Tensor]]], max_bytes: int
    ) -> None:
        """Compute features by `encode_images`; keep at most `max_bytes` that no prompt needs any more."""
        self._encode_images = encode_images
        self._max_bytes = max_bytes
        self._whole, self._tails = _Kept(), _Kept()
        #: images computed, and images of which all that was asked for was kept
        self.computed = self.reused = 0

    def get(self, wanted: Sequence[ImageRows], needed_later: Collection[str]) -> list[Tensor]:
        """Return (1 + deepstack layers, end - begin, H) of each; keep `needed_later` at least until the next call."""
        found: dict[ImageRows, Tensor] = {}
        missing: dict[str, list[ImageRows]] = {}
        for each in dict.fromkeys(wanted):
            if (kept := self._find(each)) is not None:
                found[each] = kept
            else:
                missing.setdefault(each.image.digest, []).append(each)
        self.computed += len(missing)
        self.reused += len(wanted) - len(missing)
        # what is not kept goes before the next images are computed: prompts may want the ends of many
        for image, features in self._encode_images([of_image[0].image for of_image in missing.values()]):
            # a copy: a new tensor is a view of one for all images of its pass
            whole = features.contiguous()
            found.update({each: _rows(whole, each) for each in missing[image.digest]})
            if self._max_bytes or image.digest in needed_later:
                self._whole.put(image.digest, whole)
                self._shrink(needed_later)
        self._shrink(needed_later)
        return [found[each] for each in wanted]

    def _find(self, wanted: ImageRows) -> Tensor | None:
        digest = wanted.image.digest
        if (whole := self._whole.get(digest)) is not None:
            return whole[:, wanted.begin : wanted.end]
        tail = self._tails.get(digest)
        if tail is None or wanted.begin < (first := wanted.image.tokens - tail.shape[1]):
            return None
        return tail[:, wanted.begin - first : wanted.end - first]

    def _shrink(self, needed_later: Collection[str]) -> None:
        while self._whole.nbytes + self._tails.nbytes > self._max_bytes:
            digest = next((each for each in self._whole if each not in needed_later), None)
            if digest is None:
                break
            self._tails.put(digest, self._whole.pop(digest)[:, -TAIL:].clone())
            while self._tails.nbytes > self._max_bytes / 2:
                self._tails.pop(next(iter(self._tails)))


def _rows(features: Tensor, wanted: ImageRows) -> Tensor:
    rows = features[:, wanted.begin : wanted.end]
    # a part must not keep the features of a whole pass in memory
    return rows if wanted.are_all else rows.clone()
