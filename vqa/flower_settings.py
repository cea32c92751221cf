"""Settings of Flower, `VQA_FLOWER_*`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from vqa.settings import PREFIX, Settings


class FlowerSettings(Settings):
    """Settings of Flower's web pages."""

    model_config = SettingsConfigDict(env_prefix=f"{PREFIX}FLOWER_")

    user: str = Field(default="vqa", description="user name for Flower's pages")
    password: str | None = Field(
        default=None,
        min_length=8,
        description="password for Flower's pages, at least 8 characters; `vqa demo` draws a random one when unset",
    )
    address: str = Field(
        default="127.0.0.1", description="address that Flower listens on; its /metrics needs no password"
    )
    port: int = Field(default=5555, ge=0, le=65_535, description="port that Flower listens on")
