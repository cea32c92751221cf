"""What is asked of a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from vqa.images.video_fit import FrameFit, VideoFit


@dataclass(frozen=True, slots=True)
class VideoSampling:
    """How to sample frames from a video file."""

    #: frames a second
    fps: float
    #: if the video has more at that rate, so many are taken evenly
    max_frames: int
    #: how the model scales the frames
    fit: VideoFit


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A file, and which images to make of it."""

    #: encoded bytes, or a reference to fetch them by
    content: bytes | str
    #: most pixels of each image, at most the worker's own limit; None for that limit
    max_pixels: int | None = None
    #: first and last page of a TIFF or PDF file, from 1; None for all
    pages: tuple[int, int] | None = None
    #: sample the file as a video; None for an image, which is the first frame of an animation
    video: VideoSampling | None = None
    #: the file is a frame of a video, and is scaled as it says; None for an image of its own
    frame: FrameFit | None = None

    def with_content(self, content: bytes) -> Self:
        return replace(self, content=content)

    @property
    def options(self) -> dict[str, Any]:
        """All but the content, for JSON."""
        return {name: value for name, value in asdict(replace(self, content=b"")).items() if name != "content"}

    @classmethod
    def from_options(cls, content: bytes, options: Mapping[str, Any]) -> Self:
        """Invert `options`."""
        pages, video, frame = options["pages"], options["video"], options["frame"]
        sampling = video and VideoSampling(**{**video, "fit": VideoFit(**video["fit"])})
        return cls(content, options["max_pixels"], pages and tuple(pages), sampling, frame and FrameFit(**frame))
