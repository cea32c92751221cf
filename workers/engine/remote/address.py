"""Where a server is: the base URL of its OpenAI API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """The URL that `/chat/completions` is appended to, and the key that the server wants."""

    base: str
    key: str | None = None

    @classmethod
    def parse(cls, url: str, key: str | None = None) -> Self:
        """Read a URL as OpenAI's clients do; `/v1` is appended if it has no path. Raises ValueError."""
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            # whose message may quote a part of a password
            raise ValueError("a URL is like http://gpu1:8000/v1, and one of these is not") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url.partition('?')[0].rpartition('@')[2]!r} is no http:// or https:// URL")
        if parts.username is not None or parts.password is not None:
            raise ValueError(f"{parts.hostname}: a URL must not have a password; keys belong in VQA_REMOTE_KEY")
        if parts.query or parts.fragment:
            raise ValueError(f"{parts.hostname}: a URL ends with its path, as in http://{parts.hostname}:8000/v1")
        return cls(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}", key)

    def __str__(self) -> str:
        return self.base

    @property
    def chat(self) -> str:
        return f"{self.base}/chat/completions"

    @property
    def models(self) -> str:
        return f"{self.base}/models"

    @property
    def metrics(self) -> str:
        """Where vLLM and SGLang publish Prometheus metrics."""
        return f"{self.base.removesuffix('/v1')}/metrics"

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
