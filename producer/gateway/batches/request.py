"""The body of a request that makes a batch."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from vqa.frozen_model import Frozen
from vqa.jobs.lane import Lane

ENDPOINT = "/v1/chat/completions"

#: for the OpenAPI document
WEBHOOK_URL = "https://example.com/hooks/vqa"

#: at most 30 days, the longest deadline of a job
WINDOW_PATTERN = r"^([1-9][0-9]{0,3}m|([1-9][0-9]?|[1-6][0-9]{2}|7[01][0-9]|720)h|([1-9]|[12][0-9]|30)d)$"

_WINDOW = re.compile(WINDOW_PATTERN)
_UNITS = {"m": 60, "h": 3600, "d": 86_400}


class OutputExpiry(Frozen):
    """How long output and error file are kept."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


class Webhook(Frozen):
    """Where the end of the batch is told."""

    url: str = Field(min_length=1, max_length=2048, examples=[WEBHOOK_URL])
    late: bool = Field(
        default=False,
        strict=True,
        description="also tell if the batch will not end within its completion_window, as predicted",
    )


class BatchOptions(Frozen):
    """What OpenAI's API has no field for."""

    lane: Lane = "bulk"
    webhook: Webhook | None = None


class BatchRequest(Frozen):
    """OpenAI's fields, and our own under `vqa`."""

    input_file_id: str = Field(min_length=1, max_length=128, examples=["file_e3b0c44298fc_5f3c9d1e8a7b6c5d4e3f2a1b"])
    endpoint: Literal["/v1/chat/completions"]
    completion_window: str = Field(
        description="within which rows are answered or expire: 24h as OpenAI has it, or other minutes (up to 9999m), "
        "hours or days, such as 90m, 2h or 7d; at most 30d",
        examples=["24h"],
        json_schema_extra={"pattern": WINDOW_PATTERN},
    )
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    output_expires_after: OutputExpiry | None = None
    vqa: BatchOptions = BatchOptions()

    @field_validator("completion_window")
    @classmethod
    def _is_a_duration(cls, window: str) -> str:
        if not _WINDOW.fullmatch(window):
            raise ValueError(
                "must be 24h, or other minutes up to 9999m, hours up to 720h or days up to 30d, such as 90m, 2h or 7d"
            )
        return window

    @property
    def window_s(self) -> int:
        number, unit = self.completion_window[:-1], self.completion_window[-1]
        return int(number) * _UNITS[unit]
