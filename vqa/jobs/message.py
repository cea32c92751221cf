"""Messages of a job: texts, images and videos in order, as immutable pydantic models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from vqa.errors import BadImage
from vqa.frozen_model import Frozen
from vqa.images.data_url import from_data_url, to_data_url
from vqa.images.stored_id import is_stored_id

_REFERENCE = re.compile(r"sha256:[0-9a-f]{64}")

#: of addresses that an image is fetched from
_URL = re.compile(r"(https?|s3|gs|az|oss)://", re.IGNORECASE)

#: characters of an address
MOST_URL = 8192

#: frames of one video, all of which are in a worker's memory at the same time
MOST_FRAMES = 256

#: of a choice of pages
PAGES_PATTERN = r"^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$"

#: how large an image is seen: `low` at most 256 tokens, `auto` as the worker's VQA_MAX_IMAGE_TOKENS says, `high` as its
#: VQA_HIGH_IMAGE_TOKENS says
Detail = Literal["low", "auto", "high"]


def is_url(text: str) -> bool:
    """Return whether `text` is an address that an image is fetched from: http(s), or an object store's."""
    return _URL.match(text) is not None


def _image_from_json(value: object) -> object:
    if not isinstance(value, str) or _REFERENCE.fullmatch(value) or is_stored_id(value):
        return value
    if value[:5].lower() == "data:":
        try:
            return from_data_url(value)
        except BadImage as error:
            raise ValueError(str(error)) from None
    if is_url(value):
        if len(value) > MOST_URL:
            raise ValueError(f"an image's URL has at most {MOST_URL:,} characters")
        return value
    raise ValueError(
        "an image must be bytes, a data: URL, an https: or object store's URL, a stored image's id (img_...) or an "
        "image store reference (sha256:...)"
    )


def _image_to_json(value: str | bytes) -> str:
    return to_data_url(value) if isinstance(value, bytes) else value


ImageContent = Annotated[
    bytes | str,
    BeforeValidator(_image_from_json),
    PlainSerializer(_image_to_json, return_type=str),
    Field(description="sha256:<64 hex digits> in the image store, data:image/TYPE;base64,<bytes>, or a URL to fetch"),
]


class TextPart(Frozen):
    """A text in a message."""

    type: Literal["text"] = "text"
    #: longer than any slot; the bound also makes pydantic refuse lone surrogates, which cannot be encoded
    text: str = Field(max_length=1_000_000)


class ImagePart(Frozen):
    """An image in a message: its encoded bytes, a reference into the image store, a stored image's id, or a URL.

    A client replaces ids, and URLs that it fetches itself, by the reference when it submits the job.
    """

    type: Literal["image"] = "image"
    image: ImageContent
    detail: Detail = "auto"
    #: pages of a TIFF or PDF file that are shown, from 1: `3`, or `2-5`; None for all
    pages: str | None = Field(default=None, pattern=PAGES_PATTERN)

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # earlier releases know no detail
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if name != "detail" or value != "auto"}

    @property
    def contents(self) -> tuple[bytes | str, ...]:
        """The image, for code that handles all parts alike."""
        return (self.image,)

    def with_contents(self, contents: Mapping[bytes | str, str]) -> Self:
        """Return the part with the image replaced by its reference in `contents`, if it is there."""
        return self.model_copy(update={"image": contents.get(self.image, self.image)})


class VideoPart(Frozen):
    """A video in a message: its frames with their times, or one file that is sampled where it is decoded."""

    type: Literal["video"] = "video"
    #: images, in order of time
    frames: tuple[ImageContent, ...] | None = Field(default=None, min_length=1, max_length=MOST_FRAMES)
    #: seconds from the start of the video, one for each of `frames`; None: they are 1 / `fps` apart
    times_s: tuple[float, ...] | None = None
    #: an animated GIF or WebP, or another video file where the worker has the extra `video`
    video: ImageContent | None = None
    #: frames a second: of `frames` without times (default 2), or to sample from `video` (default 2)
    fps: float | None = Field(default=None, gt=0, le=240)
    #: most frames to sample from `video`, evenly; None for the worker's limit
    max_frames: int | None = Field(default=None, ge=1, le=MOST_FRAMES)
    detail: Detail = "auto"

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.frames is None) == (self.video is None):
            raise ValueError("a video has either frames or a file (video)")
        if self.frames is None and self.times_s is not None:
            raise ValueError("times_s: only for frames; a file has its own")
        if self.frames is not None and self.max_frames is not None:
            raise ValueError("max_frames: only for a file (video); give fewer frames")
        return self

    @model_validator(mode="after")
    def _has_rising_times(self) -> Self:
        if self.times_s is not None and self.frames is not None:
            if len(self.times_s) != len(self.frames):
                raise ValueError(f"times_s: {len(self.times_s)} times for {len(self.frames)} frames")
            if self.times_s[0] < 0 or any(later < earlier for earlier, later in pairwise(self.times_s)):
                raise ValueError("times_s: must rise, from 0 or later")
        return self

    @property
    def contents(self) -> tuple[bytes | str, ...]:
        """The frames, or the file."""
        return self.frames if self.frames is not None else (self.video,) if self.video is not None else ()

    def with_contents(self, contents: Mapping[bytes | str, str]) -> Self:
        """Return the part with frames and file replaced by their references in `contents`, where they are there."""
        frames = self.frames and tuple(contents.get(each, each) for each in self.frames)
        video = None if self.video is None else contents.get(self.video, self.video)
        return self.model_copy(update={"frames": frames, "video": video})


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class Message(Frozen):
    """One turn of the chat."""

    role: Literal["system", "user", "assistant"]
    content: tuple[Part, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _plain_text(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("content"), str):
            return {**data, "content": ({"type": "text", "text": data["content"]},)}
        return data

    def visuals(self) -> Iterator[ImagePart | VideoPart]:
        """Yield images and videos in order."""
        return (part for part in self.content if not isinstance(part, TextPart))

    def with_contents(self, contents: Mapping[bytes | str, str]) -> Self:
        """Return the message with images replaced by their references in `contents`."""
        parts = (part if isinstance(part, TextPart) else part.with_contents(contents) for part in self.content)
        return self.model_copy(update={"content": tuple(parts)})
