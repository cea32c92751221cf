"""Who makes a request."""

from __future__ import annotations

from dataclasses import dataclass, field

from vqa.job import LANES, Lane


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much one API key may use; None for no limit."""

    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    #: prompt and completion tokens
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    #: open jobs of single requests at once
    in_flight: int | None = None


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
    webhook_secret: str | None = None
