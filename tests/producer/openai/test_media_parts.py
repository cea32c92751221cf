"""Images and videos of a chat-completions body; the names are vLLM's where OpenAI has none."""

from typing import Any

import pytest

from producer.openai.chat_request import parse_body
from vqa.errors import InvalidJob
from vqa.jobs.job import Job
from vqa.jobs.message import ImagePart, VideoPart

JPEG = "data:video/jpeg;base64,"


def parse(part: dict[str, Any], **body: Any) -> ImagePart | VideoPart:
    """The part as it is in the job."""
    request = parse_body({"messages": [{"role": "user", "content": [part]}], **body}, lambda url: url)
    [found] = Job(**request.fields).messages[0].visuals()
    return found


def image(**fields: Any) -> ImagePart:
    part = parse({"type": "image_url", "image_url": {"url": "https://a.example/cat.jpg", **fields}})
    assert isinstance(part, ImagePart)
    return part


def video(url: str, media: dict[str, Any] | None = None, **fields: Any) -> VideoPart:
    body = {} if media is None else {"media_io_kwargs": {"video": media}}
    part = parse({"type": "video_url", "video_url": {"url": url, **fields}}, **body)
    assert isinstance(part, VideoPart)
    return part


@pytest.mark.parametrize(
    ("said", "detail"),
    [("auto", "auto"), ("low", "low"), ("high", "high"), ("original", "high"), ("", "auto"), (None, "auto")],
    ids=["auto", "low", "high", "original", "empty", "null"],
)
def test_the_detail_is_the_askers_to_choose(said: str | None, detail: str) -> None:
    assert image(detail=said).detail == detail


def test_pages_may_be_chosen() -> None:
    assert image(pages="2-3").pages == "2-3"


def test_frames_have_the_times_of_their_indices() -> None:
    # the frames of a video of 10 s
    part = video(f"{JPEG}AAAA,AAAB,AAAC", fps=30, frames_indices=[0, 15, 60], total_num_frames=300, duration=10)
    assert part.frames == (b"\0\0\0", b"\0\0\1", b"\0\0\2")
    assert part.times_s == (0, 0.5, 2)


@pytest.mark.parametrize(
    ("fields", "times"),
    [
        ({}, (0, 1, 2)),
        ({"fps": 2}, (0, 0.5, 1)),
        ({"total_num_frames": 30, "duration": 3, "frames_indices": [0, 10, 20]}, (0, 1, 2)),
        ({"total_num_frames": 30.0, "duration": 3, "frames_indices": [0.0, 10.0, 20]}, (0, 1, 2)),
        ({"num_frames": 2, "fps": 4}, (0, 0.25)),
        ({"num_frames": -1}, (0, 1, 2)),
    ],
    ids=["as vLLM", "rate", "duration", "numbers with a fraction of 0", "first frames", "all frames"],
)
def test_frames_without_all_fields_have_times(fields: dict[str, Any], times: tuple[float, ...]) -> None:
    assert video(f"{JPEG}AAAA,AAAB,AAAC", **fields).times_s == times


def test_fields_of_all_videos_may_stand_in_the_body_as_in_vllm() -> None:
    part = video(f"{JPEG}AAAA,AAAB", {"fps": 30, "frames_indices": [0, 15]})
    assert part.times_s == (0, 0.5)
    assert video(f"{JPEG}AAAA,AAAB", {"fps": 30, "frames_indices": [0, 15]}, fps=15).times_s == (0, 1)


def test_a_file_is_sampled() -> None:
    part = video("https://a.example/clip.mp4", fps=2, num_frames=16, detail="low")
    assert (part.video, part.fps, part.max_frames, part.detail) == ("https://a.example/clip.mp4", 2, 16, "low")
    assert video("data:video/mp4;base64,AAAA").video == b"\0\0\0"


def test_our_own_form_is_the_jobs() -> None:
    part = parse({"type": "video", "frames": ["data:image/jpeg;base64,AAAA"], "times_s": [2.5], "detail": "original"})
    assert isinstance(part, VideoPart)
    assert (part.frames, part.times_s, part.detail) == ((b"\0\0\0",), (2.5,), "high")


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (
            {"type": "video_url", "video_url": {"url": f"{JPEG}AAAA", "frames_indices": [0, 1]}},
            "2 indices for 1 frames",
        ),
        ({"type": "video_url", "video_url": {"url": f"{JPEG}AAAA", "frames_indices": [-1]}}, "whole numbers from 0"),
        ({"type": "video_url", "video_url": {"url": f"{JPEG}AA,BB", "total_num_frames": 1}}, "there are 2 frames"),
        ({"type": "video_url", "video_url": {"url": JPEG, "num_frames": 0}}, "num_frames: must be a whole number"),
        ({"type": "video_url", "video_url": {"url": JPEG, "fps": "2"}}, "fps: must be a number over 0"),
        ({"type": "video_url", "video_url": {"url": JPEG, "fps": 5e-324}}, "fps: must be a number over 0, from 1e-09"),
        ({"type": "video_url", "video_url": {"url": JPEG, "frames_indices": [10**400]}}, "below 1,000,000,000"),
        (
            {"type": "video_url", "video_url": {"url": JPEG, "total_num_frames": 10**400, "duration": 1}},
            "total_num_frames: must be a whole number from 1, below 1,000,000,000",
        ),
        ({"type": "video_url", "video_url": {"url": JPEG + 256 * ","}}, "a video has at most 256 frames"),
        ({"type": "video_url", "video_url": {"url": "https://a/b", "duration": 2}}, "duration: only for frames"),
        ({"type": "video_url", "video_url": {"url": "https://a/b", "size": 2}}, "size: not supported"),
        ({"type": "video_url", "video_url": {}}, "video_url.url: must be a string"),
        ({"type": "video", "frames": "https://a/b"}, "frames: must be a list of strings"),
        ({"type": "video", "video": 5}, "video: must be a string"),
        ({"type": "video", "url": "https://a/b"}, "url: not supported"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(part: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidJob) as error:
        parse(part)
    assert str(error.value).startswith("messages.0.content.0")
    assert reason in str(error.value)


def test_only_videos_are_read_by_the_bodys_media_fields() -> None:
    with pytest.raises(InvalidJob, match=r"media_io_kwargs\.image: not supported"):
        parse_body({"messages": [{"role": "user", "content": "?"}], "media_io_kwargs": {"image": {}}}, lambda url: url)
