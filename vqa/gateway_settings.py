"""Settings of the HTTP gateway, `VQA_GATEWAY_*`, and of the files that it keeps, `VQA_FILES_*`."""

from __future__ import annotations

import base64
import ipaddress

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from vqa.settings import PREFIX, Settings


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _is_webhook_secret(text: str) -> bool:
    """Return whether Standard Webhooks would accept this secret."""
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        return False
    return text.startswith("whsec_") and 24 <= len(key) <= 64


class GatewaySettings(Settings):
    """Settings of the HTTP gateway."""

    model_config = SettingsConfigDict(env_prefix=f"{PREFIX}GATEWAY_")

    address: str = Field(default="127.0.0.1", description="address that the gateway listens on")
    port: int = Field(default=8000, ge=0, le=65_535, description="port that the gateway listens on")
    processes: int = Field(default=1, ge=1, le=64, description="gateway processes on this port")
    open: bool = Field(
        default=False,
        description="1 serves without API keys to other machines, too; without keys the gateway otherwise listens on "
        "a loopback address only",
    )
    test_models: bool = Field(
        default=False,
        description="1 lets requests name the models batch-test-model and vqa-echo, which answer at once without a "
        "worker: a dry run for integrators",
    )
    body_max_bytes: int = Field(
        default=64 * 2**20, ge=1024, description="bytes of a request's body, except uploads to /v1/files"
    )
    image_ttl_s: int = Field(
        default=86_400, ge=60, le=30 * 86_400, description="seconds that an image stored by POST /v1/images is kept"
    )
    cors_origins: str = Field(
        default="",
        description="origins, separated by commas, whose pages may call the gateway from a browser; * for all",
    )
    drain_s: float = Field(
        default=30.0, ge=0, le=3600, description="seconds that requests in progress get to end after SIGTERM"
    )
    metrics_key: str | None = Field(
        default=None,
        min_length=16,
        repr=False,
        description="shows the queue's metrics at /metrics to whoever sends this key (16 characters or more) as a "
        "bearer token; needs the extra metrics. Unset: no /metrics",
    )
    webhook_private: bool = Field(
        default=False, description="1 lets webhooks reach loopback, private and link-local addresses, and use http"
    )
    webhook_secret: str | None = Field(
        default=None,
        repr=False,
        description="signs the webhooks of callers without an API key: whsec_ and 24 to 64 random bytes in base64. A "
        "key has a secret of its own",
    )

    @field_validator("webhook_secret")
    @classmethod
    def _is_secret(cls, secret: str | None) -> str | None:
        if secret is not None and not _is_webhook_secret(secret):
            # never quotes the value
            raise ValueError("must be whsec_ followed by 24 to 64 random bytes in base64")
        return secret

    @property
    def allowed_origins(self) -> frozenset[str]:
        """The origins that `cors_origins` names."""
        return frozenset(origin.strip().rstrip("/") for origin in self.cors_origins.split(",") if origin.strip())

    @property
    def takes_anybody(self) -> bool:
        """Whether callers need no API key as long as there is none: only this machine's reach it, or it is `open`."""
        return self.open or is_loopback(self.address)


class FilesSettings(Settings):
    """Settings of uploaded files, such as the inputs of batches."""

    model_config = SettingsConfigDict(env_prefix=f"{PREFIX}FILES_")

    url: str | None = Field(
        default=None,
        description="where uploaded files are kept: file:///PATH, s3://BUCKET/PREFIX, gs://, az://. Unset: in Redis",
    )
    max_bytes: int = Field(default=200 * 2**20, ge=1, description="bytes of an uploaded file")
    total_bytes: int = Field(
        default=2 * 2**30, ge=1, description="bytes of all uploaded files together, where Redis keeps them"
    )
    ttl_s: int = Field(default=30 * 86_400, ge=60, le=366 * 86_400, description="seconds that an uploaded file is kept")
