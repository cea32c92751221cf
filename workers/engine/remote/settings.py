"""Settings of the remote engine."""

from __future__ import annotations

import re

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from vqa.errors import NotReady, SettingsError
from vqa.settings import PREFIX, Settings
from workers.engine.remote.address import ServerAddress

#: what a header may have; commas and the spaces around them part the keys
_PRINTABLE = re.compile(r"(?:[!-~]|, | ,)*")


class RemoteSettings(Settings):
    """Where the servers are."""

    model_config = SettingsConfigDict(env_prefix=f"{PREFIX}REMOTE_")

    urls: str = Field(
        default="",
        description="remote engine: base URLs of servers with OpenAI's API, separated by commas, such as "
        "http://gpu1:8000/v1,http://gpu2:8000/v1; all must serve the same model",
    )
    key: SecretStr | None = Field(
        default=None,
        description="remote engine: API key of all servers, or one for each URL, in their order, separated by commas",
    )

    @field_validator("urls")
    @classmethod
    def _are_urls(cls, urls: str) -> str:
        for url in _split(urls):
            ServerAddress.parse(url)
        return urls

    @field_validator("key")
    @classmethod
    def _can_be_sent(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not _PRINTABLE.fullmatch(key.get_secret_value().strip()):
            raise ValueError("a key has a space, or a character that is not ASCII, and cannot be sent")
        return key

    @property
    def servers(self) -> tuple[ServerAddress, ...]:
        """The servers. Raises NotReady if there is none, SettingsError if the keys do not match them."""
        urls = list(dict.fromkeys(_split(self.urls)))
        if not urls:
            raise NotReady("VQA_ENGINE=remote needs VQA_REMOTE_URLS, such as http://gpu1:8000/v1")
        keys: list[str] = _split(self.key.get_secret_value()) if self.key else []
        if len(keys) not in {0, 1, len(urls)}:
            raise SettingsError(f"VQA_REMOTE_KEY: {len(keys)} keys for {len(urls)} URLs: give one, or one for each")
        own: list[str | None] = [*keys] if len(keys) == len(urls) else [keys[0] if keys else None] * len(urls)
        return tuple(ServerAddress.parse(url, key) for url, key in zip(urls, own, strict=True))


def _split(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]
