"""Images' features: computed for many at once, and kept for a while for the next question about the same image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

from torch import Tensor

from workers.engine.continuous.requests import Sight


class Features:
    """What the vision tower made, by digest; the longest unused go first. Belongs to the engine's thread."""

    def __init__(self, see: Callable[[Sequence[Sight]], list[Tensor]], most_bytes: int) -> None:
        """`see` makes them; of those that no prompt needs any more at most `most_bytes` are kept."""
        self._see = see
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        #: images computed, and images that were there
        self.seen = self.reused = 0

    def of(self, sights: Sequence[Sight], needed_later: Collection[str]) -> dict[str, Tensor]:
        """Each image's (1 + deep layers, tokens, H) by its digest; those needed by the next call stay until then."""
        wanted = {sight.digest: sight for sight in sights}
        found = {digest: self._kept[digest] for digest in wanted if digest in self._kept}
        missing = [sight for digest, sight in wanted.items() if digest not in found]
        self.seen += len(missing)
        self.reused += len(sights) - len(missing)
        if missing:
            made = self._see(missing)
            found.update({sight.digest: each for sight, each in zip(missing, made, strict=True)})
        self._keep(found, needed_later)
        return found

    def _keep(self, found: dict[str, Tensor], needed_later: Collection[str]) -> None:
        for digest, each in found.items():
            if self._most_bytes or digest in needed_later:
                # a copy: what the tower made is one tensor for all images of a pass
                self._kept[digest] = each.contiguous() if digest not in self._kept else self._kept.pop(digest)
        held = sum(each.nbytes for each in self._kept.values())
        for digest in list(self._kept):
            if held <= self._most_bytes:
                break
            if digest not in needed_later:
                held -= self._kept.pop(digest).nbytes
