"""Jobs, as immutable pydantic models. Knows nothing of Redis, Celery or models.

All fields are validated when a job is created, so that the producer gets the error and an invalid job is never sent.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, Unpack, cast

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vqa.errors import InvalidJob, UnsupportedVersion
from vqa.frozen_model import Frozen, explain, names_of
from vqa.images.source import read_image
from vqa.images.stored_id import is_stored_id
from vqa.jobs.fields import AboutFields, ImageSource
from vqa.jobs.lane import Lane
from vqa.jobs.message import MOST_FRAMES, ImagePart, Message, TextPart, VideoPart, is_url
from vqa.jobs.retry_policy import RetryPolicy
from vqa.jobs.version import LATER_DEFAULTS, SAMPLING_SINCE_5, VERSION, oldest_version
from vqa.structured_output.response_format import (
    ChoiceFormat,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedSchema,
    ResponseFormat,
    TextFormat,
)

#: log probabilities that an answer may have, so that it stays a few megabytes: tokens, times one and `top_logprobs`,
#: times `n`
MOST_LOGPROBS = 32_768

#: images of one job, all of which are in a worker's memory at the same time
MOST_IMAGES = 64

#: seconds: thirty days
LONGEST_TIMEOUT_S = 30 * 86_400

#: a job's id, which is also the Celery task id
ID_PATTERN = r"^[A-Za-z0-9._:@+-]{1,128}$"

#: the name of a batch or a tenant
NAME_PATTERN = r"^[A-Za-z0-9._@+-]{1,64}$"

#: the name of a served model, which becomes part of Redis keys: a hub's `owner/name`, a folder's name, `name:tag`
MODEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/@:+-]{0,127}$"

#: fields of `AboutFields` that are the part's
_OF_PART = frozenset({"detail", "pages", "video", "fps", "max_frames"})


class Job(Frozen):
    """A question about images, or a chat that may contain images."""

    id: str = Field(default_factory=lambda: str(uuid.uuid4()), pattern=ID_PATTERN)
    messages: tuple[Message, ...] = Field(min_length=1)
    max_new_tokens: int = Field(default=256, ge=1, le=32_768)
    #: 0 is greedy decoding: the same prompt gets the same answer. Not written if it was not given, so that a worker may
    #: have another default (see `sampling_is_given`)
    temperature: float = Field(default=0.0, ge=0, le=2)
    #: nucleus sampling, for a temperature over 0
    top_p: float = Field(default=1.0, gt=0, le=1)
    #: for a temperature over 0: draw from this many likeliest tokens; 0 and None for all
    top_k: int | None = Field(default=None, ge=0, le=2**31 - 1)
    #: for a temperature over 0: draw from tokens with at least this share of the likeliest one's probability
    min_p: float | None = Field(default=None, ge=0, le=1)
    #: subtracted from the logits of tokens that the answer has already: once, and for each time
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    #: divides positive logits of tokens that prompt or answer has already, and multiplies negative ones
    repetition_penalty: float | None = Field(default=None, ge=0.1, le=10)
    #: for a temperature over 0: the same job and seed get the same answer from the same model and machine
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    #: generation ends at the first of these strings, which is not part of the answer
    stop: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(default=(), max_length=8)
    #: how many answers to generate; the images and the question are computed once
    n: int = Field(default=1, ge=1, le=16)
    #: whether the answer tells the log probability of each of its tokens, and of this many of the likeliest beside it
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    #: most tokens of the thought of a model that thinks before it answers, which `max_new_tokens` does not count; the
    #: thought is ended there, and the answer begins. None for the worker's VQA_MAX_REASONING_TOKENS
    max_reasoning_tokens: int | None = Field(default=None, ge=0, le=32_768)
    #: constrains the answer to JSON, with or without a schema, or to one of several choices
    response_format: ResponseFormat | None = None
    #: seconds from acceptance to the deadline; None for the lane's default
    timeout_s: float | None = Field(default=None, gt=0, le=LONGEST_TIMEOUT_S)
    lane: Lane = "interactive"
    #: name of the model that answers, one that workers serve; None for whichever worker takes it
    model: str | None = Field(default=None, pattern=MODEL_PATTERN)
    #: None for the lane's default
    retry: RetryPolicy | None = None
    #: for whom the job runs: bulk jobs of several tenants are served in turn
    tenant: str | None = Field(default=None, pattern=NAME_PATTERN)
    #: id of the bulk submission that the job belongs to
    batch: str | None = Field(default=None, pattern=NAME_PATTERN)
    #: whether an earlier answer of the same model to the same question may be reused; only for greedy jobs
    reuse: bool = False
    #: most tokens that an image, or a frame of a video, becomes; None for the worker's setting. A worker's limit is its
    #: VQA_HIGH_IMAGE_TOKENS; an image's own `detail` may say less
    max_image_tokens: int | None = Field(default=None, ge=4, le=16_384)
    #: whether images are shown smaller, all by the same factor, if the prompt would not fit a slot otherwise
    shrink_images: bool = False
    #: the caller's data, which the model never sees
    metadata: Mapping[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=16
    )
    #: of the job format; derived from the fields above, and so declared after them
    version: int = Field(default=1, ge=1, le=VERSION, validate_default=True)

    @field_validator("version")
    @classmethod
    def _is_the_oldest_possible(cls, version: int, info: ValidationInfo) -> int:
        return oldest_version(info.data)

    @field_validator("temperature")
    @classmethod
    def _is_not_near_zero(cls, temperature: float) -> float:
        # dividing the logits by a temperature near 0 would overflow
        if 0 < temperature < 0.01:
            raise ValueError("must be 0 (greedy), or from 0.01 to 2")
        return temperature

    @field_validator("n")
    @classmethod
    def _differ(cls, n: int, info: ValidationInfo) -> int:
        if n > 1 and info.data.get("temperature") == 0:
            raise ValueError("over 1 it needs a temperature over 0: greedy answers are all the same")
        return n

    @field_validator("top_logprobs")
    @classmethod
    def _are_beside_logprobs(cls, top_logprobs: int, info: ValidationInfo) -> int:
        if top_logprobs and info.data.get("logprobs") is False:
            raise ValueError("it needs logprobs to be true")
        return top_logprobs

    @model_validator(mode="after")
    def _has_few_images(self) -> Self:
        if sum(1 for _ in self.images()) > MOST_IMAGES:
            raise ValueError(f"a job has at most {MOST_IMAGES} images")
        if sum(len(part.contents) for part in self.videos()) > MOST_FRAMES:
            raise ValueError(f"the videos of a job have at most {MOST_FRAMES} frames in all")
        return self

    @model_validator(mode="after")
    def _has_one_way_to_end(self) -> Self:
        if self.stop and self.grammar is not None:
            raise ValueError(
                "stop strings cannot be combined with a response format: a structured answer ends when it is complete"
            )
        return self

    @model_validator(mode="after")
    def _has_few_logprobs(self) -> Self:
        count = self.max_new_tokens * (1 + self.top_logprobs) * self.n
        if self.logprobs and count > MOST_LOGPROBS:
            raise ValueError(
                f"with logprobs, max_new_tokens x (1 + top_logprobs) x n is {count:,}, and may be {MOST_LOGPROBS:,}"
            )
        return self

    @model_validator(mode="after")
    def _has_different_answers(self) -> Self:
        if self.n > 1 and self.scored_choices:
            raise ValueError("n cannot be combined with the probabilities of choices, which are the same each time")
        return self

    @model_validator(mode="after")
    def _is_repeatable(self) -> Self:
        if self.reuse and self.temperature > 0:
            raise ValueError("only a greedy job (temperature 0) can reuse an earlier answer")
        return self

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InvalidJob(explain(error, _NAMES)) from None

    @classmethod
    def about(cls, image: ImageSource, question: str, **fields: Unpack[AboutFields]) -> Self:
        """Create a job of one image, or with `video=True` of one video, and one question. Raises BadImage, InvalidJob.

        A string is a path, a URL to fetch, or the id of a stored image (img_...) unless a file has that name.
        """
        if isinstance(question, str) and not question.strip():
            raise InvalidJob("question: it is empty")
        named = isinstance(image, str) and (is_url(image) or (is_stored_id(image) and not Path(image).exists()))
        how = {name: value for name, value in fields.items() if name in _OF_PART}
        kind = "video" if how.pop("video", False) else "image"
        content = image if named else read_image(cast(Any, image), video=kind == "video")
        parts = ({"type": kind, kind: content, **how}, {"type": "text", "text": question})
        own = {name: value for name, value in fields.items() if name not in _OF_PART}
        return cls(messages=({"role": "user", "content": parts},), **own)

    @classmethod
    def from_json(cls, data: str | bytes | Mapping[str, Any]) -> Self:
        """Read a job from a JSON document or from a parsed one.

        Raises UnsupportedVersion for a newer version of the format, InvalidJob for anything else that is no valid job.
        """
        try:
            fields = json.loads(data) if isinstance(data, str | bytes) else data
        except (ValueError, RecursionError):
            raise InvalidJob("a job must be a JSON object; this is not JSON") from None
        if not isinstance(fields, Mapping) or not all(isinstance(name, str) for name in fields):
            raise InvalidJob(f"a job must be a JSON object, not {type(fields).__name__}")
        version = fields.get("version", 1)
        if isinstance(version, int) and version > VERSION:
            raise UnsupportedVersion(
                f"the job has format {version}, this worker reads formats up to {VERSION}; upgrade it"
            )
        return cls(**fields)

    def for_model(self, model: str) -> Self:
        """Return the job with a model, whose name has been checked, to answer it."""
        return self.model_copy(update={"model": model, "version": oldest_version({"model": model})})

    def to_json(self) -> bytes:
        """Return the job as JSON, without the fields that its version does not have."""
        defaults = {name for name, value in LATER_DEFAULTS.items() if getattr(self, name) == value}
        defaults |= {"temperature"} - self.model_fields_set
        return self.model_dump_json(exclude_none=True, exclude=defaults).encode()

    @property
    def sampling_is_given(self) -> bool:
        """Whether the job says how tokens are chosen, so that a worker with VQA_SAMPLING_DEFAULTS=checkpoint must not.

        A job whose answer may be reused is greedy.
        """
        given = (getattr(self, name) is not None for name in SAMPLING_SINCE_5)
        return "temperature" in self.model_fields_set or self.top_p < 1 or self.reuse or any(given)

    @property
    def grammar(self) -> str | None:
        """The grammar of the answer; None for any text."""
        return self.response_format.grammar() if self.response_format is not None else None

    @property
    def scored_choices(self) -> tuple[str, ...]:
        """The choices whose probabilities the job asks for."""
        format = self.response_format
        return format.choices if isinstance(format, ChoiceFormat) and format.probabilities else ()

    def parse(self, text: str) -> Any:
        """Return the value of an answer in the job's response format; None without one. Raises AnswerTooLong."""
        return self.response_format.parse(text) if self.response_format is not None else None

    def images(self) -> Iterator[ImagePart]:
        """Yield the images in the order in which the model sees them."""
        return (part for message in self.messages for part in message.visuals() if isinstance(part, ImagePart))

    def videos(self) -> Iterator[VideoPart]:
        """Yield the videos in the order in which the model sees them."""
        return (part for message in self.messages for part in message.visuals() if isinstance(part, VideoPart))

    def contents(self) -> Iterator[bytes | str]:
        """Yield the bytes or the name of each image, frame and video file."""
        return (each for message in self.messages for part in message.visuals() for each in part.contents)

    def with_images(self, contents: Mapping[bytes, str] | Mapping[str, str]) -> Self:
        """Return the job with images, given by bytes or by name, replaced by their references in `contents`."""
        references = cast(Mapping[bytes | str, str], contents)
        replaced = tuple(message.with_contents(references) for message in self.messages)
        return self.model_copy(update={"messages": replaced})


_FORMATS = (TextFormat, JsonObjectFormat, JsonSchemaFormat, ChoiceFormat, NamedSchema)
_MODELS = (Job, Message, TextPart, ImagePart, VideoPart, RetryPolicy, *_FORMATS)
_NAMES = names_of(_MODELS) | {"choice", "json_object"}
