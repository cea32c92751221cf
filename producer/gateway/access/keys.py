"""API keys in Redis, as `vqa keys` manages them. Needs none of the gateway's packages.

The hash `vqa:keys` has a record of each key under the key's SHA-256. Revoked keys keep theirs: without any record the
gateway would take every caller.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from pydantic import ValidationError
from redis import Redis

from producer.gateway.access.api_key import digest_of, new_api_key
from producer.gateway.access.key_record import KeyRecord

log = logging.getLogger(__name__)

KEYS = "vqa:keys"


class Keys:
    """API keys, over a synchronous connection. Methods raise redis.exceptions.RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def create(self, name: str, **fields: Any) -> tuple[str, KeyRecord]:
        """Create a key; return it, which nobody can do later, and its record. `fields` are KeyRecord.create's.

        Raises pydantic.ValidationError.
        """
        key = new_api_key()
        record = KeyRecord.create(digest_of(key), name, **fields)
        self._redis.hset(KEYS, record.digest, record.model_dump_json())
        return key, record

    def list(self) -> list[KeyRecord]:
        """Return all keys, the oldest first; a record that cannot be read is left out and logged."""
        found = cast(Mapping[bytes, bytes], self._redis.hgetall(KEYS))
        records = [record for digest, data in found.items() if (record := read_record(digest.decode(), data))]
        return sorted(records, key=lambda record: record.created)

    def get(self, id: str) -> KeyRecord | None:
        """Return a key by its id."""
        return next((record for record in self.list() if record.id == id), None)

    def revoke(self, id: str) -> KeyRecord | None:
        """Revoke a key for good; return its record, or None if there is no such key. A second time changes nothing."""
        record = self.get(id)
        if record and not record.revoked:
            record = record.model_copy(update={"revoked": datetime.now(UTC).replace(microsecond=0)})
            self._redis.hset(KEYS, record.digest, record.model_dump_json())
        return record

    def exist(self) -> bool:
        """Return whether any key was ever created, so that the gateway demands one."""
        return bool(self._redis.hlen(KEYS))


def read_record(digest: str, data: bytes) -> KeyRecord | None:
    """Return the record that is stored under a digest; None, with a line in the log, if it cannot be read."""
    try:
        return KeyRecord.model_validate_json(data)
    except ValidationError as error:
        # its values may be secrets
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['type']}" for fault in error.errors())
        log.error("the API key with SHA-256 %s... is refused: its record cannot be read (%s)", digest[:8], faults)
        return None
