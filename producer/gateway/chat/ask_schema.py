"""Bodies and answers of `POST /v1/ask`, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from producer.gateway.chat.completion_schema import AnswerDetails, CompletionUsage
from producer.gateway.chat.format_schema import ResponseFormat
from producer.gateway.chat.job_builder import SHORTEST_TIMEOUT_S
from producer.gateway.chat.request_schema import (
    EXAMPLE_IMAGE,
    IMAGE_PATTERN,
    Detail,
    Stop,
    Stops,
    Temperature,
    inlined_schema,
)
from producer.openai.chat_completion import chat_completion
from vqa.answer import Answer, FinishReason
from vqa.jobs.job import LONGEST_TIMEOUT_S
from vqa.jobs.lane import Lane

Image = Annotated[str, Field(pattern=IMAGE_PATTERN)]


class AskAnswer(BaseModel):
    """An answer without OpenAI's wrapping."""

    id: str = Field(description="the job's id", examples=["chatcmpl_e3b0c44298fc_5f3c9d1e8a7b6c5d4e3f2a1b"])
    object: Literal["vqa.answer"] = "vqa.answer"
    answer: str
    finish_reason: FinishReason
    model: str
    usage: CompletionUsage
    vqa: AnswerDetails

    @classmethod
    def from_answer(cls, answer: Answer) -> Self:
        completion = chat_completion(answer)
        shared = {name: completion[name] for name in ("id", "model", "usage", "vqa")}
        return cls(answer=answer.text, finish_reason=answer.finish_reason, **shared)


class AskBody(BaseModel):
    """One question about one or more images."""

    model_config = ConfigDict(
        json_schema_extra={
            "additionalProperties": {"type": "null"},
            "example": {"image": EXAMPLE_IMAGE, "question": "What colour is this?"},
        }
    )

    image: Image | Annotated[list[Image], Field(min_length=1)] = Field(
        description="data: URLs, ids of stored images, or https: URLs of hosts that are allowed"
    )
    question: str = Field(pattern=r"\S", max_length=1_000_000)
    system: str | None = Field(default=None, max_length=1_000_000, description="instructions before the question")
    model: str | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=32_768)
    temperature: Temperature | None = None
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    stop: Stop | Stops | None = None
    response_format: ResponseFormat | None = None
    lane: Lane | None = None
    timeout_s: float | None = Field(default=None, ge=SHORTEST_TIMEOUT_S, le=LONGEST_TIMEOUT_S)
    reuse: bool | None = None
    detail: Detail | None = Field(default=None, description="how large the images are seen; auto by default")
    max_image_tokens: int | None = Field(default=None, ge=4, le=16_384)
    shrink_images: bool | None = None


def form_schema() -> dict[str, Any]:
    """Return the schema of the form, whose images are files."""
    schema = inlined_schema(AskBody)
    schema.pop("example")
    schema["description"] += " An empty field counts as left out."
    schema["additionalProperties"] = False
    # a form has no null: a field is left out
    schema["properties"] = {name: _not_null(each) for name, each in schema["properties"].items()}
    schema["properties"]["image"] = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "description": "files; also URLs or ids of stored images, as text",
    }
    stop = {"type": "string", "maxLength": 256}
    schema["properties"]["stop"] = {
        "anyOf": [stop, {"type": "array", "items": stop}],
        "description": "the field may be repeated, up to 8 times",
    }
    schema["properties"]["response_format"] = {
        "type": "string",
        "contentMediaType": "application/json",
        "description": "a JSON object, as text",
    }
    return schema


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [each for each in schema.pop("anyOf", []) if each != {"type": "null"}]
    schema.pop("default", None)
    return schema | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})
