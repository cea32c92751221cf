"""A decoded image as engines take it."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from PIL import Image


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class RGBImage:
    """The pixels of a decoded image, upright."""

    width: int
    height: int
    #: RGB, row by row: height x width x 3 bytes
    pixels: bytes
    #: SHA-256 of the pixels, or of the file and what this is of it: the key under which computed features are reused
    digest: str
    #: size of the image in its file, upright, before it was scaled; 0 if there was no file
    source_width: int = 0
    source_height: int = 0
    #: frames of the animation in the file, of which this is the first
    frames: int = 1
    #: number among the pages of the file, from 1
    page: int = 1
    #: in the file
    pages: int = 1
    #: seconds from the start of the video that this is a frame of; None for an image
    time_s: float | None = None

    @classmethod
    def from_pil(cls, image: Image.Image) -> RGBImage:
        pixels = image.convert("RGB").tobytes()
        name = sha256(b"%d %d " % image.size)
        name.update(pixels)
        return cls(*image.size, pixels, name.hexdigest())

    @property
    def pil(self) -> Image.Image:
        """The image for Pillow; shares the memory of `pixels`."""
        return Image.frombuffer("RGB", (self.width, self.height), self.pixels)
