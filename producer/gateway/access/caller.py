"""Who makes a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from producer.gateway.access.windows import Window
from vqa.jobs.lane import LANES, Lane

#: a limit; the counts of a window stay exact in Lua's numbers
Limit = Annotated[int, Field(ge=1, le=10**12)]


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much one API key may use; None for no limit."""

    requests_per_minute: Limit | None = None
    requests_per_day: Limit | None = None
    #: prompt and completion tokens
    tokens_per_minute: Limit | None = None
    tokens_per_day: Limit | None = None
    #: open jobs of single requests at once
    in_flight: Annotated[int, Field(ge=1, le=10_000)] | None = None

    @property
    def limits_jobs(self) -> bool:
        """Whether a job needs a reservation."""
        return bool(self.tokens_per_minute or self.tokens_per_day or self.in_flight)


@dataclass(slots=True)
class Usage:
    """How much of a key's limits is used, as this request saw it last; the response's headers show it."""

    requests: Window | None = None
    tokens: Window | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of an API key, or anybody where the gateway runs without keys."""

    #: id of the key, for the access log and the budgets; "" without keys
    key_id: str = ""
    #: sees only what belongs to this tenant
    tenant: str | None = None
    lanes: tuple[Lane, ...] = LANES
    allowance: Allowance = field(default_factory=Allowance)
    #: signs webhooks; whsec_...
    webhook_secret: str | None = field(default=None, repr=False)
    #: of this request alone
    usage: Usage = field(default_factory=Usage, compare=False, repr=False)
