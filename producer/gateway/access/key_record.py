"""The record of an API key in Redis: everything but the key itself, of which it has the SHA-256."""

from __future__ import annotations

import base64
import secrets
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from producer.gateway.access.caller import Allowance, Caller
from vqa.jobs.job import NAME_PATTERN
from vqa.jobs.lane import LANES, Lane

#: bytes of a webhook secret; Standard Webhooks wants 24 to 64
_SECRET_BYTES = 32

Status = Literal["active", "expired", "revoked"]


class KeyRecord(BaseModel):
    """One API key. A field that this version does not know may be a limit, so that such a record is not accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    #: SHA-256 of the key, in hexadecimal
    digest: str = Field(repr=False)
    name: str = Field(min_length=1, max_length=200)
    #: keys of one tenant see the same jobs, images, files and batches
    tenant: str = Field(pattern=NAME_PATTERN)
    lanes: tuple[Lane, ...] = Field(default=LANES, min_length=1)
    allowance: Allowance = Allowance()
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None
    #: whsec_...; not hashed, as it signs
    webhook_secret: str = Field(repr=False)

    @classmethod
    def create(
        cls,
        digest: str,
        name: str,
        tenant: str | None = None,
        lanes: tuple[Lane, ...] = LANES,
        allowance: Allowance | None = None,
        expires: datetime | None = None,
    ) -> Self:
        """Return a new record. Without a tenant the key has one of its own. Raises pydantic.ValidationError."""
        id = f"key_{secrets.token_hex(6)}"
        return cls(
            id=id,
            digest=digest,
            name=name,
            tenant=tenant or id,
            lanes=lanes,
            allowance=allowance or Allowance(),
            created=datetime.now(UTC).replace(microsecond=0),
            expires=expires,
            webhook_secret=f"whsec_{base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}",
        )

    def status(self, now: datetime) -> Status:
        """Return whether the key opens the gateway at this (aware) time."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires and self.expires <= now else "active"

    def caller(self) -> Caller:
        """Return a caller for one request with this key."""
        return Caller(self.id, self.tenant, self.lanes, self.allowance, self.webhook_secret)
