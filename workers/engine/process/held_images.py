"""Images that the engine's process keeps while prompts with them are pending, so that each is sent once."""

from __future__ import annotations

from workers.engine.base import Turn
from workers.engine.image import RGBImage
from workers.engine.process.frames import BrokenFrame
from workers.engine.process.messages import HeldImage, HeldTurn, HeldVideo, Hold
from workers.engine.video import Video


class HeldImages:
    """The child's side: images by the numbers that the worker has given them."""

    def __init__(self) -> None:
        self._images: dict[int, RGBImage] = {}

    def __len__(self) -> int:
        return len(self._images)

    def hold(self, message: Hold, pixels: bytes) -> None:
        """Raises BrokenFrame if the pixels are not those of an image of this size."""
        if message.width < 1 or len(pixels) != message.width * message.height * 3:
            raise BrokenFrame(f"{len(pixels)} bytes of pixels for {message.width} x {message.height}")
        self._images[message.image] = RGBImage(message.width, message.height, pixels, message.digest)

    def release(self, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            self._images.pop(number, None)

    def turn(self, held: HeldTurn) -> Turn:
        """Raises BrokenFrame if an image is not held."""
        return Turn(held.role, tuple(self._part(part) for part in held.parts))

    def _part(self, part: str | HeldImage | HeldVideo) -> str | RGBImage | Video:
        if isinstance(part, str):
            return part
        if isinstance(part, HeldImage):
            return self._image(part.image)
        return Video(tuple(map(self._image, part.images)), part.times_s)

    def _image(self, number: int) -> RGBImage:
        if number not in self._images:
            raise BrokenFrame(f"image {number} is not held")
        return self._images[number]
