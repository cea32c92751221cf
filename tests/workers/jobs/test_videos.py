from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from vqa.errors import InvalidJob, PromptTooLong
from vqa.images.video_fit import QWEN3_VL, VideoFit
from vqa.jobs.job import Job
from vqa.jobs.message import VideoPart
from workers.engine.image import RGBImage
from workers.engine.video import Video
from workers.jobs.videos import VideoTokens, requests_for, seen_video, smaller_videos, video_of

FRAMES = tuple(f"sha256:{number:064x}" for number in range(6))
FILE = "sha256:" + 64 * "f"


def images(count: int, size: tuple[int, int] = (128, 64)) -> list[RGBImage]:
    return [RGBImage.from_pil(Image.new("RGB", size, (number, 0, 0))) for number in range(count)]


def test_frames_are_scaled_by_how_many_they_are_and_by_their_detail() -> None:
    part = VideoPart(frames=FRAMES)

    usual, low = (requests_for(part, QWEN3_VL, 64, tokens) for tokens in (4096, 256))

    assert [request.content for request in usual] == list(FRAMES)
    assert {request.frame for request in usual} == {QWEN3_VL.for_frames(6, 4096 * 1024)}
    assert {request.frame for request in low} == {QWEN3_VL.for_frames(6, 256 * 1024)}
    # the first page, if a frame is a document
    assert {request.pages for request in usual} == {(1, 1)}


@pytest.mark.parametrize(
    ("fields", "fps", "most"),
    [({}, 2.0, 64), ({"fps": 0.5}, 0.5, 64), ({"max_frames": 8}, 2.0, 8), ({"max_frames": 200}, 2.0, 64)],
    ids=["defaults", "rate", "fewer", "more"],
)
def test_a_file_is_sampled_as_its_job_says_within_the_limit(fields: dict[str, Any], fps: float, most: int) -> None:
    (request,) = requests_for(VideoPart(video=FILE, **fields), QWEN3_VL, 64, 1024)

    assert request.video is not None
    assert (request.video.fps, request.video.max_frames) == (fps, most)
    assert request.max_pixels == 1024 * 1024


def test_more_frames_than_the_limit_are_refused_by_name() -> None:
    with pytest.raises(InvalidJob, match=r"6 frames; the limit is 5 \(VQA_VIDEO_MAX_FRAMES\)"):
        requests_for(VideoPart(frames=FRAMES), QWEN3_VL, 5, 1024)


def test_a_model_that_takes_no_videos_says_so_before_anything_is_decoded() -> None:
    with pytest.raises(InvalidJob, match="takes no videos; send frames as images"):
        requests_for(VideoPart(video=FILE), None, 64, 1024)


@pytest.mark.parametrize(
    ("fields", "times_s"),
    [({}, (0.0, 0.5, 1.0)), ({"fps": 4}, (0.0, 0.25, 0.5)), ({"times_s": (0.0, 3.0, 4.0)}, (0.0, 3.0, 4.0))],
    ids=["default", "rate", "times"],
)
def test_frames_have_the_times_that_their_job_gives_them(fields: dict[str, Any], times_s: tuple[float, ...]) -> None:
    assert video_of(VideoPart(frames=FRAMES[:3], **fields), images(3)).times_s == times_s


def test_two_frames_count_as_one() -> None:
    seen = seen_video(Video(tuple(images(5)), (0.0, 1.0, 2.0, 3.0, 4.0)), QWEN3_VL)

    assert (seen.frames, seen.width, seen.height, seen.tokens) == (5, 128, 64, 3 * 4 * 2)


def asked_about(*parts: VideoPart) -> Job:
    return Job(messages=({"role": "user", "content": parts},))


def too_long(excess: int | None) -> PromptTooLong:
    error = PromptTooLong("too long")
    error.excess = excess
    return error


def test_tokens_that_are_over_are_taken_evenly_from_images_and_videos() -> None:
    part = VideoPart(frames=FRAMES)
    tokens = VideoTokens.count(asked_about(part, part), {part: Video(tuple(images(6)), (0.0,) * 6)}, QWEN3_VL)
    assert (tokens.videos, tokens.tokens) == (2, 48)

    error, scale = tokens.divide(too_long(16), image_tokens=16)

    assert error.excess == 4
    assert scale == pytest.approx(36 / 48)
    assert tokens.divide(too_long(None), 16)[1] == 1
    assert "2 videos take 48 of them" in str(tokens.explain(error))


def test_without_videos_an_error_stays_as_it_is() -> None:
    error = too_long(5)
    tokens = VideoTokens(0, 0)

    assert tokens.divide(error, 10) == (error, 1.0)
    assert tokens.explain(error) is error


def test_smaller_frames_have_a_share_of_the_pixels() -> None:
    frames, file = VideoPart(frames=FRAMES), VideoPart(video=FILE)
    fit = VideoFit(32, 4096, 65_536)
    requests = {part: requests_for(part, fit, 64, 1024) for part in (frames, file)}
    videos = {part: Video(tuple(images(6)), (0.0,) * 6) for part in (frames, file)}

    smaller = smaller_videos(requests, videos, 0.75)

    assert smaller is not None
    scaled = smaller[frames][0].frame
    assert scaled is not None
    assert scaled.size(128, 64) == (96, 32)
    (of_file,) = smaller[file]
    assert of_file.max_pixels == 0.75 * 128 * 64
    assert fit.for_frames(6, of_file.max_pixels).size(128, 64) == (96, 32)
    assert smaller_videos(requests, videos, 0.0) is None
