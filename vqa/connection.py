"""Connections to Redis, all with the same timeouts and retries."""

from __future__ import annotations

from typing import Any, cast

import redis
import redis.asyncio
from kombu.exceptions import KombuError
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import RedisError
from redis.sentinel import Sentinel

from vqa.redis_retry import AsyncRetryFor, RetryFor
from vqa.settings import QueueSettings

#: what redis-py and kombu raise when a call fails
REDIS_ERRORS = (RedisError, KombuError, OSError)

#: seconds for which a failed call is retried, unless its caller says otherwise
RETRY_S = 3.0

#: connections of one asyncio client; calls beyond that wait for one
_ASYNC_CONNECTIONS = 32

#: seconds after which the next Sentinel is asked
_SENTINEL_TIMEOUT_S = 1.0


def cause_of(error: BaseException) -> BaseException:
    """Return the error of Redis or redis-py that kombu has wrapped."""
    return error.__cause__ if isinstance(error, KombuError) and error.__cause__ else error


def socket_limits(settings: QueueSettings) -> dict[str, Any]:
    """Return socket options under which a silent Redis is an error, not a hang."""
    return {
        "socket_timeout": settings.redis_timeout_s,
        "socket_connect_timeout": min(settings.redis_timeout_s, 5.0),
        "socket_keepalive": True,
    }


def sentinel_limits(settings: QueueSettings) -> dict[str, Any]:
    """Return socket options for a Sentinel, which is tried only once, because there are others.

    The values must be JSON: `celery inspect` shows a worker's settings.
    """
    limit_s = min(settings.redis_timeout_s, _SENTINEL_TIMEOUT_S)
    return {"socket_timeout": limit_s, "socket_connect_timeout": limit_s, "retry": None}


def connect(settings: QueueSettings, retry_s: float | None = None) -> redis.Redis:
    """Return a pooled client that retries a failed call, at most 1 s apart, for `retry_s` seconds before it raises.

    `retry_s` defaults to RETRY_S, or to `redis_timeout_s` if that is less.
    """
    address = settings.address
    options = address.options() | socket_limits(settings) | {"health_check_interval": 30}
    options["retry"] = RetryFor(_retry_s(settings, retry_s))
    if address.master is None:
        [(host, port)] = address.hosts
        return redis.Redis(host, port, **options)
    own = address.sentinel_options() | sentinel_limits(settings)
    watch = Sentinel(list(address.hosts), sentinel_kwargs=own)  # type: ignore[no-untyped-call]
    return cast(redis.Redis, watch.master_for(address.master, **options))  # type: ignore[no-untyped-call]


def connect_async(settings: QueueSettings, retry_s: float | None = None) -> redis.asyncio.Redis:
    """Return the asyncio client with the same options as `connect`.

    However many tasks use it at once, they share a few connections: redis-py's own pool would raise an error at the
    hundredth.
    """
    address = settings.address
    options = address.options() | socket_limits(settings) | {"health_check_interval": 30}
    options["retry"] = AsyncRetryFor(_retry_s(settings, retry_s))
    pool: dict[str, Any] = {"max_connections": _ASYNC_CONNECTIONS, "timeout": settings.redis_timeout_s}
    if address.master is None:
        [(host, port)] = address.hosts
        client = redis.asyncio.Redis(host=host, port=port, **options)
        plain = client.connection_pool
        client.connection_pool = BlockingConnectionPool(
            connection_class=plain.connection_class, **pool, **plain.connection_kwargs
        )
        return client
    own = address.sentinel_options() | sentinel_limits(settings)
    watch = AsyncSentinel(list(address.hosts), sentinel_kwargs=own)  # type: ignore[no-untyped-call]
    master = watch.master_for(address.master, connection_pool_class=_WaitingSentinelPool, **pool, **options)
    return cast(redis.asyncio.Redis, master)


class _WaitingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Finds the master by Sentinel, lets calls wait for a connection, and closes those to the Sentinels, too."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        # without those in use, the pool only leaves a former master
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


def _retry_s(settings: QueueSettings, retry_s: float | None) -> float:
    return min(RETRY_S, settings.redis_timeout_s) if retry_s is None else retry_s
