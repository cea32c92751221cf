"""OpenAI's file objects, for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

FILE_ID = "file_e3b0c44298fc_5f3c9d1e8a7b6c5d4e3f2a1b"


class FileObject(BaseModel):
    """A file: the input of a batch, or what came of one."""

    id: str = Field(examples=[FILE_ID])
    object: Literal["file"]
    bytes: int = Field(description="size; 0 for the files of a batch that is not over, which grow")
    created_at: int = Field(description="seconds since 1970")
    expires_at: int | None = Field(description="seconds since 1970; then it is deleted")
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]
    status_details: None = None


class FileList(BaseModel):
    """A page of a list of files."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None = Field(description="as `after` it gives the next page")
    has_more: bool


class DeletedFile(BaseModel):
    """What DELETE answers."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]
