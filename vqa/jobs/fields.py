"""The arguments of functions that make a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

from PIL import Image

from vqa.jobs.lane import Lane
from vqa.jobs.message import Detail
from vqa.jobs.retry_policy import RetryPolicy
from vqa.structured_output.response_format import ResponseFormat

ImageSource = str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image


class JobFields(TypedDict, total=False):
    """The fields of a `Job` that a caller may give besides its image and question; documented there."""

    id: str
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    seed: int | None
    n: int
    logprobs: bool
    top_logprobs: int
    max_reasoning_tokens: int | None
    stop: Sequence[str]
    response_format: ResponseFormat | Mapping[str, Any] | None
    timeout_s: float | None
    lane: Lane
    model: str | None
    retry: RetryPolicy | Mapping[str, Any] | None
    tenant: str | None
    batch: str | None
    reuse: bool
    max_image_tokens: int | None
    shrink_images: bool
    metadata: Mapping[str, str]


class AboutFields(JobFields, total=False):
    """The fields of a `Job`, and those of the part that shows its image or video."""

    detail: Detail
    #: of a TIFF or PDF file: `3`, or `2-5`
    pages: str | None
    #: whether it is a video, shown as frames, and how these are sampled
    video: bool
    fps: float | None
    max_frames: int | None
