"""Refuses to serve other machines without API keys, unless VQA_GATEWAY_OPEN allows it."""

from __future__ import annotations

import asyncio

import redis
import redis.asyncio

from producer.gateway.access.keys import KEYS, Keys
from vqa.errors import SettingsError
from vqa.gateway_settings import GatewaySettings
from vqa.redis.connection import REDIS_ERRORS, connect
from vqa.settings import QueueSettings

#: pause between two tries while Redis does not answer
_PAUSE_S = 1.0


def require_keys(settings: GatewaySettings, queue_settings: QueueSettings) -> None:
    """Raise SettingsError if other machines could ask without a key. A Redis that is away is not waited for."""
    if settings.takes_anybody:
        return
    with connect(queue_settings, retry_s=0) as connection:
        try:
            exist = Keys(connection).exist()
        except REDIS_ERRORS:
            return
    if not exist:
        raise _no_keys(settings)


async def require_keys_later(settings: GatewaySettings, connection: redis.asyncio.Redis) -> None:
    """Do the same, waiting for Redis; until it answers, every request is refused."""
    while not settings.takes_anybody:
        try:
            if not await connection.hlen(KEYS):
                raise _no_keys(settings)
            return
        except REDIS_ERRORS:
            await asyncio.sleep(_PAUSE_S)


def _no_keys(settings: GatewaySettings) -> SettingsError:
    return SettingsError(
        f"VQA_GATEWAY_ADDRESS={settings.address} is open to other machines, and there is no API key: create one "
        "(`vqa keys create --name NAME`), listen on 127.0.0.1, or set VQA_GATEWAY_OPEN=1 to serve anybody"
    )
