"""The body of a request that makes a batch."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from vqa.frozen_model import Frozen
from vqa.job import LONGEST_TIMEOUT_S, Lane

ENDPOINT = "/v1/chat/completions"

_WINDOW = re.compile(r"([0-9]{1,5})([mhd])")
_UNITS = {"m": 60, "h": 3600, "d": 86_400}


class OutputExpiry(Frozen):
    """How long output and error file are kept."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


class Webhook(Frozen):
    """Where the end of the batch is told."""

    url: str = Field(min_length=1, max_length=2048, examples=["https://example.com/hooks/vqa"])


class BatchOptions(Frozen):
    """What OpenAI's API has no field for."""

    lane: Lane = "bulk"
    webhook: Webhook | None = None


class BatchRequest(Frozen):
    """OpenAI's fields, and our own under `vqa`."""

    input_file_id: str = Field(min_length=1, max_length=128, examples=["file_e3b0c44298fc_5f3c9d1e8a7b6c5d4e3f2a1b"])
    endpoint: Literal["/v1/chat/completions"]
    completion_window: str = Field(
        description="within which rows are answered or expire: 24h as OpenAI has it, or other minutes, hours or days, "
        "such as 90m, 2h or 7d; at most 30d",
        examples=["24h"],
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
        if not 60 <= _seconds(window) <= LONGEST_TIMEOUT_S:
            raise ValueError("must be 24h, or other minutes, hours or days such as 90m, 2h or 7d, at most 30d")
        return window

    @property
    def window_s(self) -> int:
        return _seconds(self.completion_window)


def _seconds(window: str) -> int:
    found = _WINDOW.fullmatch(window)
    return int(found[1]) * _UNITS[found[2]] if found else 0
