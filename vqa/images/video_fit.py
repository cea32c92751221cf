"""The size to which a Qwen3-VL model scales the frames of a video."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from vqa.images.fit import Fit, _down, _up

#: an allowance of transformers' limit of a frame's pixels
_LEAST_SHARE = 1.05


@dataclass(frozen=True, slots=True)
class FrameFit(Fit):
    """The size of all frames of one video; the limits are of the pixels of all its frames together."""

    frames: int = 2
    #: frames that become one
    temporal: int = 2

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height to scale each frame to.

        Equals `smart_resize` in transformers' models/qwen3_vl/video_processing_qwen3_vl.py.
        """
        factor = self.factor
        if height < factor or width < factor:
            scale = max(factor / height, factor / width)
            height, width = int(height * scale), int(width * scale)
        fitted_width, fitted_height = (round(side / factor) * factor for side in (width, height))
        area = round(self.frames / self.temporal) * self.temporal * fitted_width * fitted_height
        if area > self.max_pixels:
            shrink = math.sqrt(self.frames * width * height / self.max_pixels)
            return max(factor, _down(width / shrink, factor)), max(factor, _down(height / shrink, factor))
        if area < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (self.frames * width * height))
            return _up(width * grow, factor), _up(height * grow, factor)
        return fitted_width, fitted_height

    def with_frame_pixels(self, pixels: int) -> FrameFit:
        """Return the fit of the same video with frames of at most so many pixels."""
        most = min(self.max_pixels, pixels * self.frames)
        return replace(self, max_pixels=most, min_pixels=min(self.min_pixels, most))


@dataclass(frozen=True, slots=True)
class VideoFit:
    """How a model scales videos: sides are multiples of `factor`; a video has few pixels in all of its frames."""

    factor: int
    #: of all frames of a video together
    min_pixels: int
    max_pixels: int
    #: of one frame; None: as many as the whole video may have
    frame_pixels: int | None = None
    #: frames that become one
    temporal: int = 2
    #: the filter that scales frames, by Pillow's number: bicubic
    resample: int = 3

    def for_frames(self, frames: int, frame_pixels: int | None = None) -> FrameFit:
        """Return the fit of a video of so many frames, each of at most `frame_pixels`.

        A single frame is shown twice. Equals `Qwen3VLVideoProcessor.resize` with `cap_pixels_per_frame`.
        """
        frames = max(frames, self.temporal)
        most = self.max_pixels
        if caps := [cap for cap in (self.frame_pixels, frame_pixels) if cap is not None]:
            most = min(max(min(caps), int(self.min_pixels * _LEAST_SHARE)), most // frames) * frames
        return FrameFit(self.factor, min(self.min_pixels, most), most, self.resample, frames, self.temporal)


#: of the released checkpoints
QWEN3_VL = VideoFit(factor=32, min_pixels=4096, max_pixels=25_165_824)
