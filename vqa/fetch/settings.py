"""Settings of fetching images, `VQA_FETCH_*`. Nothing is fetched unless one of them allows it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from vqa.fetch.hosts import AllowedHosts
from vqa.fetch.prefixes import AllowedBuckets
from vqa.settings import PREFIX, Settings


class FetchSettings(Settings):
    """Settings of fetching images from addresses."""

    model_config = SettingsConfigDict(env_prefix=f"{PREFIX}FETCH_")

    hosts: str = Field(
        default="",
        description="hosts that images are fetched from by https, separated by commas: images.example.com, "
        "*.example.com, or * for all. http://HOST allows http, too; HOST:PORT another port, HOST:* any. Unset: none",
    )
    buckets: str = Field(
        default="",
        description="buckets, perhaps with a prefix, that images are read from, separated by commas: "
        "s3://BUCKET/PREFIX, gs://, az://, oss://. Credentials are those of the environment. Unset: none",
    )
    roots: str = Field(
        default="",
        description="absolute folders, separated by colons, in which images given as file: may lie. Unset: none for a "
        "gateway; the client and the command line read their user's own files",
    )
    private: bool = Field(
        default=False, description="1 lets images come from loopback, private and link-local addresses, too"
    )
    timeout_s: float = Field(default=30.0, gt=0, le=3600, description="seconds for fetching an image, retries included")
    first_byte_s: float = Field(
        default=10.0, gt=0, le=3600, description="seconds until a server's response begins, at each attempt"
    )

    @field_validator("hosts")
    @classmethod
    def _has_hosts(cls, text: str) -> str:
        AllowedHosts.parse(text)
        return text

    @field_validator("buckets")
    @classmethod
    def _has_buckets(cls, text: str) -> str:
        AllowedBuckets.parse(text)
        return text

    @field_validator("roots")
    @classmethod
    def _has_folders(cls, text: str) -> str:
        for each in filter(None, text.split(":")):
            if not Path(each).is_absolute():
                raise ValueError(f"{each}: a folder must be given by its absolute path")
        return text
