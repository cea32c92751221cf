"""The job: what a producer asks and a worker answers. Frozen types with one door in and out of JSON.

Knows nothing of Redis, Celery or models. Every field is checked where a job is made, so a misspelt one is refused at
the producer and never travels.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Self

from PIL import Image
from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vqa.errors import BadImage, InvalidJob, UnsupportedVersion
from vqa.frozen_model import Frozen, explain, names_of
from vqa.image import from_data_url, read_image, to_data_url
from vqa.response_format import (
    ChoiceFormat,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedSchema,
    ResponseFormat,
    TextFormat,
)


class RetryPolicy(Frozen):
    """How often and how soon a job is tried again after a transient error.

    The delay before attempt n + 1 is drawn from 0 to min(cap_s, base_s * 2**(n - 1)): full jitter, as in "Exponential
    Backoff And Jitter" (AWS Architecture Blog, 2015).
    """

    attempts: int = Field(default=3, ge=1, le=100)
    base_s: float = Field(default=1.0, ge=0, le=86_400)
    cap_s: float = Field(default=60.0, ge=0, le=86_400)

    def longest_delay_s(self, attempt: int) -> float:
        """The upper end of the jitter after attempt number `attempt` (from 1)."""
        # 2**63 is past any cap; a larger exponent would overflow a float
        return min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 63))


Lane = Literal["interactive", "bulk"]
LANES: tuple[Lane, ...] = ("interactive", "bulk")

#: the newest version of the job format that this code knows; a worker refuses a newer one. 2 has `top_p` and `seed`, 3
#: has `tenant`, `batch`, `reuse` and `response_format`. A job is of the oldest version that can say what it asks, so
#: that workers of an earlier release read what they can.
VERSION = 3

#: images of one job: all of them are in a worker's memory at once
MOST_IMAGES = 64

#: thirty days
LONGEST_TIMEOUT_S = 30 * 86_400

#: of a job's id, which is the Celery task id, too
ID_PATTERN = r"^[A-Za-z0-9._:@+-]{1,128}$"

#: of a batch and of a tenant
NAME_PATTERN = r"^[A-Za-z0-9._@+-]{1,64}$"

_REFERENCE = re.compile(r"sha256:[0-9a-f]{64}")


def _image_from_json(value: object) -> object:
    if not isinstance(value, str) or _REFERENCE.fullmatch(value):
        return value
    if value[:5].lower() == "data:":
        try:
            return from_data_url(value)
        except BadImage as error:
            raise ValueError(str(error)) from None
    raise ValueError("an image is bytes, a data: URL or a reference into the image store (sha256:...), nothing fetched")


def _image_to_json(value: str | bytes) -> str:
    return to_data_url(value) if isinstance(value, bytes) else value


ImageSource = str | Path | bytes | BinaryIO | Image.Image
ImageContent = Annotated[
    bytes | str,
    BeforeValidator(_image_from_json),
    PlainSerializer(_image_to_json, return_type=str),
    Field(description="sha256:<64 hex digits> in the image store, or data:image/TYPE;base64,<bytes>"),
]


class TextPart(Frozen):
    """Words of a message."""

    type: Literal["text"] = "text"
    #: more than any slot holds; a bound also makes pydantic refuse half a surrogate pair, which cannot be written
    text: str = Field(max_length=1_000_000)


class ImagePart(Frozen):
    """An image of a message: its encoded bytes, or where the image store keeps them."""

    type: Literal["image"] = "image"
    image: ImageContent


class Message(Frozen):
    """One turn of the chat."""

    role: Literal["system", "user", "assistant"]
    content: tuple[Annotated[TextPart | ImagePart, Field(discriminator="type")], ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _plain_text(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("content"), str):
            return {**data, "content": ({"type": "text", "text": data["content"]},)}
        return data


class Job(Frozen):
    """A question about images, or any chat with images in it."""

    id: str = Field(default_factory=lambda: str(uuid.uuid4()), pattern=ID_PATTERN)
    messages: tuple[Message, ...] = Field(min_length=1)
    max_new_tokens: int = Field(default=256, ge=1, le=32_768)
    #: 0 is greedy: the same prompt gets the same answer
    temperature: float = Field(default=0.0, ge=0, le=2)
    #: where temperature is over 0, the likeliest tokens that have at least this probability together are drawn from
    top_p: float = Field(default=1.0, gt=0, le=1)
    #: where temperature is over 0, the same job with the same seed gets the same answer from the same model and machine
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    #: generation ends before the first of these; they are not part of the answer
    stop: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(default=(), max_length=8)
    #: the form of the answer: JSON, by a schema or not, or one of several choices. It never takes another one
    response_format: ResponseFormat | None = None
    #: seconds from acceptance to the deadline; the lane's default where None
    timeout_s: float | None = Field(default=None, gt=0, le=LONGEST_TIMEOUT_S)
    lane: Lane = "interactive"
    #: the lane's default where None
    retry: RetryPolicy | None = None
    #: on whose behalf: bulk jobs of several tenants are served in turn
    tenant: str | None = Field(default=None, pattern=NAME_PATTERN)
    #: the bulk submission that it belongs to
    batch: str | None = Field(default=None, pattern=NAME_PATTERN)
    #: whether the answer may be one that the same model gave to the same question before; greedy jobs only
    reuse: bool = False
    #: the caller's own words about the job; carried along, never shown to the model
    metadata: Mapping[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=16
    )
    #: of the job format; not chosen but seen from the fields above, which it must therefore follow
    version: int = Field(default=1, ge=1, le=VERSION, validate_default=True)

    @field_validator("version")
    @classmethod
    def _is_the_oldest(cls, version: int, info: ValidationInfo) -> int:
        data = info.data
        named = ("tenant", "batch", "response_format")
        if any(data.get(name) is not None for name in named) or data.get("reuse"):
            return 3
        return 1 if data.get("top_p", 1.0) == 1.0 and data.get("seed") is None else 2

    @field_validator("temperature")
    @classmethod
    def _is_workable(cls, temperature: float) -> float:
        # what is nearly 0 makes infinities of the logits
        if 0 < temperature < 0.01:
            raise ValueError("0 (greedy), or 0.01 to 2")
        return temperature

    @model_validator(mode="after")
    def _shows_a_few(self) -> Self:
        if sum(1 for _ in self.images()) > MOST_IMAGES:
            raise ValueError(f"a job shows at most {MOST_IMAGES} images")
        return self

    @model_validator(mode="after")
    def _ends_whole(self) -> Self:
        if self.stop and self.grammar is not None:
            raise ValueError("a structured answer ends where it is complete; it has no stop strings")
        return self

    @model_validator(mode="after")
    def _is_repeatable(self) -> Self:
        if self.reuse and self.temperature > 0:
            raise ValueError("only a greedy job (temperature 0) may be given an earlier answer (reuse)")
        return self

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InvalidJob(explain(error, _NAMES)) from None

    @classmethod
    def about(cls, image: ImageSource, question: str, **fields: Any) -> Self:
        """A job of one image and one question. Raises BadImage or InvalidJob."""
        parts = ({"type": "image", "image": read_image(image)}, {"type": "text", "text": question})
        return cls(messages=({"role": "user", "content": parts},), **fields)

    @classmethod
    def from_json(cls, data: str | bytes | Mapping[str, Any]) -> Self:
        """The job in a JSON document or in what one was parsed into.

        Raises UnsupportedVersion when a newer vqa wrote it, InvalidJob for anything else that is not a job.
        """
        try:
            fields = json.loads(data) if isinstance(data, str | bytes) else data
        except (ValueError, RecursionError):
            raise InvalidJob("a job is one JSON object; this is not JSON") from None
        if not isinstance(fields, Mapping) or not all(isinstance(name, str) for name in fields):
            raise InvalidJob(f"a job is one JSON object, not {type(fields).__name__}")
        version = fields.get("version", 1)
        if isinstance(version, int) and version > VERSION:
            raise UnsupportedVersion(f"the job is of format {version}, this worker reads up to {VERSION}; upgrade it")
        return cls(**fields)

    def to_json(self) -> bytes:
        """One JSON document; a field that its version does not have is not in it."""
        usual = {name for name, value in (("top_p", 1.0), ("reuse", False)) if getattr(self, name) == value}
        return self.model_dump_json(exclude_none=True, exclude=usual).encode()

    @property
    def grammar(self) -> str | None:
        """What the answer must keep to; None for any text."""
        return self.response_format.grammar() if self.response_format is not None else None

    def parse(self, text: str) -> Any:
        """The value of an answer in the job's format; None where it has none. Raises AnswerTooLong."""
        return self.response_format.parse(text) if self.response_format is not None else None

    def images(self) -> Iterator[ImagePart]:
        """The images in the order in which the model sees them."""
        return (part for message in self.messages for part in message.content if isinstance(part, ImagePart))

    def with_images(self, contents: Mapping[bytes, str]) -> Self:
        """The same job with each image's bytes replaced by the reference that `contents` has for them."""

        def replaced(message: Message) -> Message:
            parts = (
                ImagePart(image=contents[part.image])
                if isinstance(part, ImagePart) and isinstance(part.image, bytes)
                else part
                for part in message.content
            )
            return message.model_copy(update={"content": tuple(parts)})

        return self.model_copy(update={"messages": tuple(map(replaced, self.messages))})


_FORMATS = (TextFormat, JsonObjectFormat, JsonSchemaFormat, ChoiceFormat, NamedSchema)
_MODELS = (Job, Message, TextPart, ImagePart, RetryPolicy, *_FORMATS)
_NAMES = names_of(_MODELS) | {"choice", "json_object"}
