"""Which frames of a video are shown."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from PIL import Image

from vqa.images.video_fit import FrameFit
from workers.media.request import VideoSampling

#: pixels of frames, those between the ones that are shown included, for which a file gets computing time: 30 s in all
MOST_DECODED_PIXELS = 270_000_000

#: of a short video more frames are taken than its rate says, as transformers' Qwen3VLVideoProcessor does
MIN_FRAMES = 4


def choose_frames(starts_s: Sequence[float], duration_s: float, sampling: VideoSampling) -> list[int]:
    """Return the numbers of the frames to show, from 0, evenly in time from the first to the last.

    `starts_s` are the times at which frames begin, from 0. Where frames begin evenly, they are those of
    `Qwen3VLVideoProcessor.sample_frames`, but for halves between two frames; a frame is shown once however long it
    stands.
    """
    # without the error of a sum of durations, which would cost a frame
    wanted = max(int(round(duration_s * sampling.fps, 6)), MIN_FRAMES)
    count = min(wanted, sampling.max_frames, len(starts_s))
    last = starts_s[-1]
    targets = (last * number / (count - 1) for number in range(count)) if count > 1 else iter([0.0])
    return sorted({_nearest(starts_s, target) for target in targets})


def scale_frame(frame: Image.Image, fit: FrameFit) -> Image.Image:
    """Scale a frame as the model's video processor would."""
    return frame.resize(fit.size(*frame.size), Image.Resampling(fit.resample))


def _nearest(starts_s: Sequence[float], target: float) -> int:
    after = min(bisect_left(starts_s, target), len(starts_s) - 1)
    before = max(after - 1, 0)
    return before if target - starts_s[before] < starts_s[after] - target else after
