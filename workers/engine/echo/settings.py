"""Settings of the echo engine, for tests."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from vqa.settings import PREFIX, Settings


class EchoSettings(Settings):
    """How long the echo engine takes, and its record for tests."""

    model_config = SettingsConfigDict(env_prefix=f"{PREFIX}ECHO_")

    delay_s: float = Field(default=0.0, ge=0, description="seconds that the echo engine takes for an answer")
    load_s: float = Field(default=0.0, ge=0, description="seconds that the echo engine takes to load")
    journal: Path | None = Field(
        default=None,
        description="file to which the echo engine appends a line of JSON when a prompt enters and leaves its slot",
    )
