"""OpenAI's chat completion and its chunks, for the OpenAPI document; `producer.openai` builds them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from vqa.answer import FinishReason, SeenImage, SeenVideo, Timings, TokenLogprob


class PromptTokensDetails(BaseModel):
    cached_tokens: int = Field(description="that the worker had computed for an earlier prompt with the same beginning")


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int = Field(description="of a thought before the answer")


class CompletionUsage(BaseModel):
    prompt_tokens: int = Field(description="images count as the tokens that they become")
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class CompletionMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    reasoning_content: str | None = Field(
        default=None, description="only of models that think before they answer: what was thought"
    )


class Logprobs(BaseModel):
    content: list[TokenLogprob] = Field(description="of the tokens of the text")
    refusal: None = None


class CompletionChoice(BaseModel):
    index: int = Field(description="from 0 to `n` - 1")
    message: CompletionMessage
    finish_reason: FinishReason
    logprobs: Logprobs | None = Field(default=None, description="if `logprobs` was true")


class AnswerDetails(BaseModel):
    """What OpenAI's API has no place for."""

    parsed: Any = Field(default=None, description="the value of a structured answer")
    choices: dict[str, float] | None = Field(
        default=None, description="the probability of each choice, if the response format asks for them; they sum to 1"
    )
    images: list[SeenImage] = Field(description="the images in order, and the size in which the model saw each")
    videos: list[SeenVideo] = Field(default=[], description="the videos in order, and how the model saw each")
    timings: Timings
    worker: str = Field(examples=["card0@gpu1"])
    attempt: int = Field(description="number of the attempt that succeeded, from 1")
    reused: bool = Field(description="an earlier answer to the same question was reused")
    filtered: list[str] = Field(default=[], description="categories of the word filter whose words were found")
    label: str | None = Field(default=None, description="the notice that the answer is made by a machine")


class ChatCompletion(BaseModel):
    """An answer, as OpenAI's API gives it."""

    id: str = Field(description="the job's id", examples=["chatcmpl_e3b0c44298fc_5f3c9d1e8a7b6c5d4e3f2a1b"])
    object: Literal["chat.completion"]
    created: int = Field(description="seconds since 1970")
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage
    vqa: AnswerDetails
