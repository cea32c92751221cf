"""Connections to Redis, with the same limits wherever one is opened."""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
from kombu.exceptions import KombuError
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, RedisError, TimeoutError
from redis.retry import Retry

from vqa.settings import QueueSettings

#: what another try on a fresh connection may mend; every verb of the ledger may be sent twice
_PASSING = (ConnectionError, TimeoutError, BusyLoadingError)

#: what Redis's client and kombu raise when a call did not do its part
UNREACHED = (RedisError, KombuError, OSError)


def _limits(settings: QueueSettings) -> dict[str, Any]:
    return {
        "socket_timeout": settings.redis_timeout_s,
        "socket_connect_timeout": min(settings.redis_timeout_s, 5.0),
        "socket_keepalive": True,
        "health_check_interval": 30,
        "retry_on_error": list(_PASSING),
    }


def connect(settings: QueueSettings, patience: int = 3) -> redis.Redis:
    """A pooled client; a call is tried `patience` times more, up to 1 s apart, before it raises."""
    retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), patience)
    return redis.Redis.from_url(settings.redis_url, retry=retry, **_limits(settings))


def connect_async(settings: QueueSettings, patience: int = 3) -> redis.asyncio.Redis:
    """The same for asyncio."""
    retry = redis.asyncio.retry.Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), patience)
    return redis.asyncio.Redis.from_url(settings.redis_url, retry=retry, **_limits(settings))
