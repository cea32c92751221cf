"""How `vqa keys` prints API keys; webhook secrets only where they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from producer.cli.show import columns
from producer.gateway.access.key_record import KeyRecord

#: of limits, in the order of an Allowance
_LIMITS = {
    "requests_per_minute": "requests/min",
    "requests_per_day": "requests/day",
    "tokens_per_minute": "tokens/min",
    "tokens_per_day": "tokens/day",
    "in_flight": "in flight",
}


def created(key: str, record: KeyRecord, as_json: bool) -> str:
    """Show a new key with its secrets."""
    if as_json:
        return json.dumps({"key": key, **_public(record), "webhook_secret": record.webhook_secret})
    secrets = columns([("API key", key), ("webhook secret", record.webhook_secret)])
    return f"{secrets}\n\nThe API key is not stored and cannot be shown again.\n\n{whole(record, as_json=False)}"


def listed(records: Iterable[KeyRecord], as_json: bool) -> str:
    if as_json:
        return "\n".join(json.dumps(_public(record)) for record in records)
    head = ("ID", "NAME", "STATUS", "TENANT", "LANES", "LIMITS", "CREATED", "EXPIRES")
    return columns([head, *map(_row, records)])


def whole(record: KeyRecord, as_json: bool) -> str:
    if as_json:
        return json.dumps(_public(record))
    head = ("id", "name", "status", "tenant", "lanes", "limits", "created", "expires")
    return columns(zip(head, _row(record), strict=True))


def _row(record: KeyRecord) -> tuple[object, ...]:
    limits = ", ".join(
        f"{limit} {_LIMITS[name]}" for name, limit in asdict(record.allowance).items() if limit is not None
    )
    lanes = ",".join(record.lanes)
    times = (_time(record.created), _time(record.expires))
    return record.id, record.name, _status(record), record.tenant, lanes, limits or None, *times


def _time(time: datetime | None) -> str | None:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ") if time else None


def _status(record: KeyRecord) -> str:
    return record.status(datetime.now(UTC))


def _public(record: KeyRecord) -> dict[str, Any]:
    return {**record.model_dump(mode="json", exclude={"digest", "webhook_secret"}), "status": _status(record)}
