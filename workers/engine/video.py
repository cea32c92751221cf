"""A decoded video as engines take it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vqa.errors import InvalidJob
from workers.engine.image import RGBImage

#: of the error of a job with a video for a model without a known video format
NO_VIDEOS = "this model takes no videos; send frames as images"


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """Frames of one size, in order of time."""

    frames: tuple[RGBImage, ...]
    #: seconds from the start of the video, one for each frame
    times_s: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raises InvalidJob if the frames are of several sizes."""
        first = self.frames[0]
        for number, frame in enumerate(self.frames, 1):
            if (frame.width, frame.height) != (first.width, first.height):
                raise InvalidJob(f"all frames of a video must have the shape of the first; frame {number} has another")

    @property
    def width(self) -> int:
        return self.frames[0].width

    @property
    def height(self) -> int:
        return self.frames[0].height

    def patches(self, temporal: int) -> Iterator[tuple[RGBImage, ...]]:
        """Yield the frames of each temporal patch; the last frame is repeated until they divide."""
        padded = self.frames + self.frames[-1:] * (-len(self.frames) % temporal)
        return (padded[first : first + temporal] for first in range(0, len(padded), temporal))
