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
        self._whole: OrderedDict[str, Tensor] = OrderedDict()
        self._tails: OrderedDict[str, Tensor] = OrderedDict()
        #: images computed, and images of which all that was asked for was kept
        self.computed = self.reused = 0

    def get(self, wanted: Sequence[ImageRows], needed_later: Collection[str]) -> list[Tensor]:
        """Return (1 + deepstack layers, end - begin, H) of each; keep `needed_later` at least until the next call."""
        found: dict[ImageRows, Tensor] = {}
        missing: dict[str, ImageSpan] = {}
        for each in dict.fromkeys(wanted):
            if (kept := self._kept(each)) is not None:
                found[each] = kept
            else:
                missing[each.image.digest] = each.image
        self.computed += len(missing)
        self.reused += len(wanted) - len(missing)
        # what is not kept goes before the next images are computed: prompts may want the ends of many
        for image, features in self._encode_images(list(missing.values())):
            of_image = [each for each in wanted if each.image.digest == image.digest]
            found.update({each: _rows(features, each) for each in of_image if each not in found})
            if self._max_bytes or image.digest in needed_later:
                # a copy: a new tensor is a view of one for all images of its pass
                self._whole[image.digest] = features.contiguous()
        self._shrink(needed_later)
        return [found[each] for each in wanted]

    def _kept(self, wanted: ImageRows) -> Tensor | None:
        digest = wanted.image.digest
        if (whole := self._whole.get(digest)) is not None:
            self._whole.move_to_end(digest)
            return whole[:, wanted.begin : wanted.end]
        tail = self._tails.get(digest)
        if tail is None or wanted.begin < (first := wanted.image.tokens - tail.shape[1]):
            return None
        self._tails.move_to_end(digest)
        return tail[:, wanted.begin - first : wanted.end - first]

    def _shrink(self, needed_later: Collection[str]) -> None:
        for digest in list(self._whole):
            if _bytes(self._whole) + _bytes(self._tails) <= self._max_bytes:
                break
            if digest not in needed_later:
                whole = self._whole.pop(digest)
                self._tails[digest] = whole[:, -TAIL:].clone()
                while _bytes(self._tails) > self._max_bytes / 2:
                    self._tails.popitem(last=False)


def _rows(features: Tensor, wanted: ImageRows) -> Tensor:
    rows = features[:, wanted.begin : wanted.end]
    # a part must not keep the features of a whole pass in memory
    return rows if wanted.are_all else rows.clone()


def _bytes(kept: OrderedDict[str, Tensor]) -> int:
    return sum(each.nbytes for each in kept.values())
