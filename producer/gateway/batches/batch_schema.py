"""OpenAI's batch objects, for the OpenAPI document; `producer.gateway.batches.view` builds them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from producer.prediction import Unknown
from vqa.jobs.lane import Lane
from vqa.ledger.batch_state import BatchStatus

BATCH_ID = "batch_e3b0c44298fc_5f3c9d1e8a7b6c5d4e3f2a1b"


class BatchError(BaseModel):
    """Why the input is refused as a whole."""

    code: str = Field(examples=["invalid_json_line"])
    message: str
    param: str | None
    line: int | None = Field(description="of the input, from 1")


class BatchErrors(BaseModel):
    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(BaseModel):
    """Rows of the input."""

    total: int = Field(description="0 until the input has been checked")
    completed: int
    failed: int


class CachedTokens(BaseModel):
    cached_tokens: int = Field(description="that workers had computed for earlier prompts with the same beginning")


class ReasoningTokens(BaseModel):
    reasoning_tokens: int = Field(description="of thoughts before the answers")


class BatchUsage(BaseModel):
    """Tokens of the rows that are answered."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class BatchPrediction(BaseModel):
    """When the batch ends at the rate of the last minutes. Times are in seconds since 1970."""

    ends_at: int | None = Field(description="null if it is not known")
    earliest_at: int | None = Field(description="at the fastest rate of the last minutes; null if nothing bounds it")
    latest_at: int | None = Field(description="at the slowest rate; null if nothing bounds it")
    in_time: bool | None = Field(description="whether it ends within the completion_window")
    unknown: Unknown | None = Field(description="why ends_at is null")


class BatchDetails(BaseModel):
    """What OpenAI's API has no place for."""

    lane: Lane
    workers: dict[str, int] = Field(description="answers by worker")
    failures: dict[str, int] = Field(description="failed rows by code")
    prediction: BatchPrediction | None = Field(description="null for a batch that is over or being cancelled")


class BatchObject(BaseModel):
    """A batch. Times are in seconds since 1970."""

    id: str = Field(examples=[BATCH_ID])
    object: Literal["batch"]
    endpoint: Literal["/v1/chat/completions"]
    model: str | None = Field(description="as the first row names it")
    errors: BatchErrors | None = Field(description="of a failed batch: what is wrong with its input")
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None = Field(description="can be read before the batch is completed: what is done so far")
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None
    vqa: BatchDetails


class BatchList(BaseModel):
    """A page of a list of batches."""

    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None = Field(description="as `after` it gives the next page")
    has_more: bool
