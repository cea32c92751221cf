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
    #: SHA-256 of size and pixels: the key under which computed features are reused
    digest: str
    #: size of the image in its file, upright, before it was scaled; 0 if there was no file
    source_width: int = 0
    source_height: int = 0
    #: pages or frames in the file, of which this is the first
    frames: int = 1

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
