"""The videos of a job: how their frames are decoded, and what the model sees of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vqa.answer import SeenVideo
from vqa.errors import InvalidJob, PromptTooLong
from vqa.images.video_fit import VideoFit
from vqa.jobs.job import Job
from vqa.jobs.message import VideoPart
from workers.engine.image import RGBImage
from workers.engine.video import NO_VIDEOS, Video
from workers.media.request import ImageRequest, VideoSampling

#: frames a second, of frames without times and to sample from a file
_FPS = 2.0

#: how each video of a job is decoded, and what came of it: one request for a file, or one for each frame
VideoRequests = Mapping[VideoPart, tuple[ImageRequest, ...]]
Videos = Mapping[VideoPart, Video]


def requests_for(part: VideoPart, fit: VideoFit | None, max_frames: int, frame_tokens: int) -> tuple[ImageRequest, ...]:
    """Return what to decode for a video of at most `frame_tokens` tokens a frame.

    `max_frames` is VQA_VIDEO_MAX_FRAMES. Raises InvalidJob.
    """
    if fit is None:
        raise InvalidJob(NO_VIDEOS)
    frame_pixels = frame_tokens * fit.factor**2
    if part.video is not None:
        most = min(part.max_frames or max_frames, max_frames)
        return (ImageRequest(part.video, frame_pixels, video=VideoSampling(part.fps or _FPS, most, fit)),)
    frames = part.contents
    if len(frames) > max_frames:
        raise InvalidJob(
            f"a video has {len(frames)} frames; the limit is {max_frames} (VQA_VIDEO_MAX_FRAMES). Send fewer of them"
        )
    scaled = fit.for_frames(len(frames), frame_pixels)
    return tuple(ImageRequest(frame, pages=(1, 1), frame=scaled) for frame in frames)


def video_of(part: VideoPart, images: Sequence[RGBImage]) -> Video:
    """Return the video of the decoded frames. Raises InvalidJob if their sizes differ."""
    if part.video is not None:
        return Video(tuple(images), tuple(image.time_s or 0.0 for image in images))
    times_s = part.times_s or tuple(number / (part.fps or _FPS) for number in range(len(images)))
    return Video(tuple(images), times_s)


def seen_video(video: Video, fit: VideoFit) -> SeenVideo:
    """Describe what the model saw."""
    first = video.frames[0]
    return SeenVideo(
        frames=len(video.frames),
        width=video.width,
        height=video.height,
        source_width=first.source_width or first.width,
        source_height=first.source_height or first.height,
        tokens=_tokens(video, fit),
    )


@dataclass(frozen=True, slots=True)
class VideoTokens:
    """The tokens of the videos in a prompt, without those of their times."""

    videos: int
    tokens: int

    @classmethod
    def count(cls, job: Job, videos: Videos, fit: VideoFit | None) -> VideoTokens:
        shown = [videos[part] for part in job.videos()]
        return cls(len(shown), sum(_tokens(video, fit) for video in shown) if fit else 0)

    def divide(self, error: PromptTooLong, image_tokens: int) -> tuple[PromptTooLong, float]:
        """Return the error with the images' share of the tokens that are over, and by what to multiply the videos'."""
        if error.excess is None or not self.tokens:
            return error, 1.0
        of_images = math.ceil(error.excess * image_tokens / (image_tokens + self.tokens))
        return _with_excess(str(error), of_images, error), 1 - (error.excess - of_images) / self.tokens

    def explain(self, error: PromptTooLong) -> PromptTooLong:
        """Return the error with what the videos have to do with it."""
        if not self.videos:
            return error
        what = "1 video takes" if self.videos == 1 else f"{self.videos} videos take"
        advice = f"{what} {self.tokens} of them: send fewer frames, or set max_image_tokens"
        return _with_excess(f"{error}; {advice}", error.excess, error)


def smaller_videos(requests: VideoRequests, videos: Videos, scale: float) -> VideoRequests | None:
    """Return requests for the same frames with `scale` times the pixels; None if that is none."""
    if scale <= 0:
        return None
    return {part: tuple(_smaller(each, videos[part], scale) for each in some) for part, some in requests.items()}


def _with_excess(message: str, excess: int | None, error: PromptTooLong) -> PromptTooLong:
    made = PromptTooLong(message)
    made.excess, made.limit = excess, error.limit
    return made


def _tokens(video: Video, fit: VideoFit) -> int:
    return -(-len(video.frames) // fit.temporal) * (video.width // fit.factor) * (video.height // fit.factor)


def _smaller(request: ImageRequest, video: Video, scale: float) -> ImageRequest:
    pixels = max(1, math.floor(video.width * video.height * scale))
    if request.frame is not None:
        return replace(request, frame=request.frame.with_frame_pixels(pixels))
    return replace(request, max_pixels=pixels)
