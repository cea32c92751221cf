"""The body of a chat request for the OpenAPI document; `producer.openai.chat_request` reads it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from producer.gateway.chat.format_schema import ResponseFormat
from producer.gateway.chat.job_builder import SHORTEST_TIMEOUT_S
from producer.openai.chat_fields import FIXED, IGNORED
from vqa.jobs.job import LONGEST_TIMEOUT_S
from vqa.jobs.lane import Lane
from vqa.jobs.message import MOST_FRAMES, PAGES_PATTERN

#: eight by eight pixels, dark red
EXAMPLE_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mPsZsAOmBiGlAQAcxUAm51HeF4AAAAASUVORK5C"
    "YII="
)


#: of URLs; `file:` works where VQA_FETCH_ROOTS is set
URL_PATTERN = "^[Dd][Aa][Tt][Aa]:|^([Hh][Tt][Tt][Pp][Ss]?|[Ss]3|[Gg][Ss]|[Aa][Zz]|[Oo][Ss][Ss])://|^[Ff][Ii][Ll][Ee]:"
#: of these, and of ids of stored images
IMAGE_PATTERN = f"{URL_PATTERN}|^img_"

#: any field may be null, which counts as missing
_NO_OTHERS: JsonDict = {"additionalProperties": {"type": "null"}}

_NO_EFFECT = "without effect"


class _Part(BaseModel):
    model_config = ConfigDict(json_schema_extra=_NO_OTHERS)


#: original is high
Detail = Literal["auto", "low", "high", "original", ""]
_DETAIL = "how large it is seen; auto by default"


class TextPart(_Part):
    type: Literal["text"]
    text: str = Field(max_length=1_000_000)
    cache_control: Any = Field(default=None, description=_NO_EFFECT)


class ImageUrl(_Part):
    url: str = Field(
        pattern=IMAGE_PATTERN,
        description="data:image/TYPE;base64,..., the id of a stored image, or an https: URL of a host that is allowed",
        examples=[EXAMPLE_IMAGE],
    )
    detail: Detail | None = Field(default=None, description=_DETAIL)
    pages: str | None = Field(
        default=None,
        pattern=PAGES_PATTERN,
        description="pages of a TIFF or PDF, from 1: 3, or 2-5; all by default",
    )
    format: Any = Field(default=None, description=_NO_EFFECT)
    mime_type: Any = Field(default=None, description=_NO_EFFECT)
    MimeType: Any = Field(default=None, description=_NO_EFFECT)


class ImagePart(_Part):
    type: Literal["image_url"]
    image_url: ImageUrl
    cache_control: Any = Field(default=None, description=_NO_EFFECT)


class VideoFields(_Part):
    """vLLM's fields."""

    fps: float | None = Field(
        default=None, gt=1e-9, lt=1e9, description="frames a second: of given frames, or to sample from a file"
    )
    num_frames: Literal[-1] | Annotated[int, Field(ge=1, lt=1e9)] | None = Field(
        default=None, description="most frames; of given ones the first"
    )
    frames_indices: list[Annotated[int, Field(ge=0, lt=1e9)]] | None = Field(
        default=None, description="of each given frame in the video, for its time: index / fps"
    )
    total_num_frames: int | None = Field(
        default=None, ge=1, lt=1e9, description="frames of the video, with duration for fps"
    )
    duration: float | None = Field(default=None, gt=1e-9, lt=1e9, description="seconds")


class VideoUrl(VideoFields):
    url: str = Field(
        pattern=IMAGE_PATTERN,
        description="frames as data:video/jpeg;base64,A,B,C; or a file, as of an image: an animated GIF or WebP, or "
        "another video where the workers read videos",
    )
    detail: Detail | None = Field(default=None, description=_DETAIL)


class VideoUrlPart(_Part):
    type: Literal["video_url"]
    video_url: VideoUrl
    cache_control: Any = Field(default=None, description=_NO_EFFECT)


VideoSource = Annotated[str, Field(pattern=IMAGE_PATTERN)]


class VideoPart(_Part):
    """Frames with their times, or a file."""

    type: Literal["video"]
    frames: Annotated[list[VideoSource], Field(min_length=1, max_length=MOST_FRAMES)] | None = None
    times_s: list[Annotated[float, Field(ge=0)]] | None = Field(
        default=None, description="seconds from the start, one for each frame, rising"
    )
    video: VideoSource | None = Field(default=None, description="a file, instead of frames")
    fps: float | None = Field(default=None, gt=0, le=240, description="of frames without times, or to sample; 2")
    max_frames: int | None = Field(default=None, ge=1, le=MOST_FRAMES, description="most frames to sample")
    detail: Detail | None = Field(default=None, description=_DETAIL)
    cache_control: Any = Field(default=None, description=_NO_EFFECT)


class MediaOptions(_Part):
    """As vLLM reads it."""

    video: VideoFields | None = Field(default=None, description="for all videos of the messages")


Parts = Annotated[list[TextPart | ImagePart | VideoUrlPart | VideoPart], Field(min_length=1)]


Nothing = Annotated[list[None], Field(max_length=0)] | None


class _Message(_Part):
    content: Annotated[str, Field(max_length=1_000_000)] | Parts
    name: Any = Field(default=None, description=_NO_EFFECT)
    tool_calls: Nothing = None
    annotations: Nothing = None


class ChatMessage(_Message):
    role: Literal["system", "developer", "user"]


class AssistantMessage(_Message):
    """An earlier answer, which clients send back with all that it had."""

    role: Literal["assistant"]
    reasoning_content: Any = Field(default=None, description=_NO_EFFECT)
    reasoning: Any = Field(default=None, description=_NO_EFFECT)
    parsed: Any = Field(default=None, description=_NO_EFFECT)


class StreamOptions(_Part):
    include_usage: bool | None = Field(default=None, description="end with a chunk that has the usage")
    include_obfuscation: bool | None = Field(default=None, description=_NO_EFFECT)


class WebhookUrl(_Part):
    url: str = Field(max_length=2048, description="an https URL")


class VqaOptions(_Part):
    lane: Lane | None = Field(default=None, description="interactive by default; bulk yields to it")
    timeout_s: float | None = Field(
        default=None,
        ge=SHORTEST_TIMEOUT_S,
        le=LONGEST_TIMEOUT_S,
        description="seconds until the deadline; by default the lane's",
    )
    reuse: bool | None = Field(
        default=None, description="an earlier answer to the same question may be given; only with temperature 0"
    )
    max_image_tokens: int | None = Field(
        default=None, ge=4, le=16_384, description="most tokens of an image or frame; the workers' setting by default"
    )
    shrink_images: bool | None = Field(
        default=None, description="images are shown smaller if the prompt would be too long otherwise"
    )
    webhook: WebhookUrl | None = Field(
        default=None, description="called when the job has ended, signed as Standard Webhooks"
    )


Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[list[Stop], Field(max_length=8)]
Temperature = Literal[0] | Annotated[float, Field(ge=0.01, le=2)]


class ChatRequestBody(_Part):
    """OpenAI's body. Fields that would change the answer and are not listed are refused by name."""

    model_config = ConfigDict(
        json_schema_extra={
            **_NO_OTHERS,
            "example": {
                "model": "vqa",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "What colour is this?"},
                            {"type": "image_url", "image_url": {"url": EXAMPLE_IMAGE}},
                        ],
                    }
                ],
                "max_tokens": 32,
            },
        }
    )

    messages: list[ChatMessage | AssistantMessage] = Field(min_length=1)
    model: str | None = Field(default=None, description="the workers' model answers, whatever is named here")
    max_tokens: int | None = Field(default=None, ge=1, le=32_768, description="256 by default")
    max_completion_tokens: int | None = Field(default=None, ge=1, le=32_768, description="the same as max_tokens")
    temperature: Temperature | None = Field(default=None, description="0 by default: greedy")
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=2**31 - 1, description="sample from so many; 0, -1: all")
    min_p: float | None = Field(
        default=None, ge=0, le=1, description="least share of the likeliest token's probability"
    )
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(
        default=None, ge=0.1, le=10, description="divides positive logits of tokens that were there, 1 by default"
    )
    logprobs: bool | None = Field(default=None, description="tell the log probability of each token; no stream")
    top_logprobs: int | None = Field(
        default=None, ge=0, le=20, description="and of so many of the likeliest at its place; only with logprobs"
    )
    max_reasoning_tokens: int | None = Field(
        default=None,
        ge=0,
        le=32_768,
        description="of a model that thinks before it answers: most tokens of the thought, which max_tokens does not "
        "count; 0 for none. By default the worker's",
    )
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    n: int | None = Field(
        default=None, ge=1, le=16, description="answers to generate; over 1 only with a temperature over 0, no stream"
    )
    stop: Stop | Stops | None = None
    response_format: ResponseFormat | None = None
    metadata: dict[str, str] | None = None
    media_io_kwargs: MediaOptions | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    vqa: VqaOptions | None = None


def chat_schema() -> dict[str, Any]:
    """Return the schema of a body, with the fields that are accepted without effect."""
    schema = inlined_schema(ChatRequestBody)
    for name, values in FIXED.items():
        schema["properties"].setdefault(name, {"enum": [*values, None], "description": "other values are refused"})
    for name in sorted(IGNORED):
        schema["properties"].setdefault(name, {"description": "without effect"})
    return schema


def inlined_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the model's JSON schema without references, for a body that no parameter of an endpoint declares."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            if name := value.get("$ref"):
                return inline(definitions[name.rpartition("/")[2]])
            return {key: inline(each) for key, each in value.items()}
        return [inline(each) for each in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = inline(schema)
    return inlined
