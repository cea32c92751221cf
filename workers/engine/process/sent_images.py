"""Which images the engine's process holds, counted by the pending prompts that have them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from workers.engine.base import Turn
from workers.engine.image import RGBImage
from workers.engine.process.frames import frame
from workers.engine.process.messages import TO_CHILD, HeldImage, HeldTurn, HeldVideo, Hold
from workers.engine.video import Video

#: images with equal digest and size have equal pixels
_Key = tuple[str, int, int]


@dataclass(slots=True)
class _Sent:
    number: int
    uses: int = 0


class SentImages:
    """The worker's side. Its caller keeps threads apart."""

    def __init__(self) -> None:
        self._sent: dict[_Key, _Sent] = {}
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._sent)

    def use(self, images: Iterable[RGBImage]) -> list[tuple[bytes, ...]]:
        """Count one more use of each image; return the frames of those that the other process must get first."""
        frames = []
        for image in images:
            key = _key(image)
            if key not in self._sent:
                self._sent[key] = _Sent(next(self._numbers))
                message = Hold(self._sent[key].number, image.width, image.height, image.digest)
                frames.append(frame(TO_CHILD.encode(message), image.pixels))
            self._sent[key].uses += 1
        return frames

    def release(self, images: Iterable[RGBImage]) -> tuple[int, ...]:
        """Count one use less of each image; return the numbers of those that no prompt has any more."""
        unused = []
        for key in map(_key, images):
            sent = self._sent[key]
            sent.uses -= 1
            if not sent.uses:
                unused.append(sent.number)
                del self._sent[key]
        return tuple(unused)

    def turn(self, turn: Turn) -> HeldTurn:
        """Return a turn with the numbers of its images, which must be in use."""
        return HeldTurn(turn.role, tuple(self._part(part) for part in turn.parts))

    def _part(self, part: str | RGBImage | Video) -> str | HeldImage | HeldVideo:
        if isinstance(part, str):
            return part
        if isinstance(part, RGBImage):
            return HeldImage(self._sent[_key(part)].number)
        return HeldVideo(tuple(self._sent[_key(frame)].number for frame in part.frames), part.times_s)


def _key(image: RGBImage) -> _Key:
    return image.digest, image.width, image.height
