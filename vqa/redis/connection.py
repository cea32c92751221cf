"""Connections to Redis, all with the same timeouts and retries."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any, cast

import redis
import redis.asyncio
from kombu.exceptions import KombuError
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.asyncio.sentinel import SentinelManagedConnection as AsyncSentinelManagedConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection as AsyncSentinelManagedSSLConnection
from redis.exceptions import RedisError
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

from vqa.redis.retry import AsyncRetryFor, RetryFor
from vqa.settings import QueueSettings

#: what redis-py and kombu raise when a call fails
REDIS_ERRORS = (RedisError, KombuError, OSError)

#: seconds for which a failed call is retried, unless its caller says otherwise
RETRY_S = 3.0

#: connections of one asyncio client; calls beyond that wait for one
_ASYNC_CONNECTIONS = 32

#: seconds without an acknowledgement by the other host after which it counts as lost; for a Redis that only hangs its
#: kernel answers, and it has `redis_timeout_s`. Under the default lease, so that workers find the new master
#: of a failover before they lose their jobs
_LOST_HOST_S = 6
#: seconds that a connection is idle before the kernel asks the other host for a sign of life, and between two questions
_IDLE_S, _PROBE_S = 3, 1

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


def lost_host_options() -> dict[int, int]:
    """Return TCP options under which a connection to a host that has vanished is an error after _LOST_HOST_S.

    Nobody resets it: without these, a call waits for the whole `socket_timeout`. Options that the system lacks, or
    refuses, are left out: with one of them no connection could be made.
    """
    wanted = {
        "TCP_KEEPIDLE": _IDLE_S,
        "TCP_KEEPINTVL": _PROBE_S,
        "TCP_KEEPCNT": (_LOST_HOST_S - _IDLE_S) // _PROBE_S,
        # milliseconds; for what was sent, which keepalive does not look after
        "TCP_USER_TIMEOUT": _LOST_HOST_S * 1000,
    }
    found: dict[int, int] = {}
    with socket.socket() as trial:
        for name, value in wanted.items():
            with suppress(AttributeError, OSError):
                option = getattr(socket, name)
                trial.setsockopt(socket.IPPROTO_TCP, option, value)
                found[option] = value
    return found


def sentinel_limits(settings: QueueSettings) -> dict[str, Any]:
    """Return socket options for a Sentinel, which is tried only once, because there are others.

    The values must be JSON: `celery inspect` shows a worker's settings.
    """
    limit_s = min(settings.redis_timeout_s, _SENTINEL_TIMEOUT_S)
    return {"socket_timeout": limit_s, "socket_connect_timeout": limit_s, "retry": None}


def connect(settings: QueueSettings, retry_s: float | None = None) -> redis.Redis:
    """Return a pooled client that retries a failed call, at most 1 s apart, for `retry_s` seconds before it raises.

    `retry_s` defaults to RETRY_S, or to `redis_timeout_s` if that is less. A call whose connection the kernel has given
    up is retried for `redis_timeout_s`, unless `retry_s` is 0.
    """
    address = settings.address
    options = address.options() | _options(settings)
    options["retry"] = RetryFor(*_retry_s(settings, retry_s))
    if address.master is None:
        [(host, port)] = address.hosts
        return redis.Redis(host, port, **options)
    own = address.sentinel_options() | sentinel_limits(settings)
    watch = Sentinel(list(address.hosts), sentinel_kwargs=own)
    kind = _MasterSSLConnection if options.pop("ssl", False) else _MasterConnection
    master = watch.master_for(address.master, connection_class=kind, **options)
    return cast(redis.Redis, master)


def connect_async(settings: QueueSettings, retry_s: float | None = None) -> redis.asyncio.Redis:
    """Return the asyncio client with the same options as `connect`.

    However many tasks use it at once, they share a few connections: redis-py's own pool would raise an error at the
    hundredth.
    """
    address = settings.address
    options = address.options() | _options(settings)
    options["retry"] = AsyncRetryFor(*_retry_s(settings, retry_s))
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
    watch = AsyncSentinel(list(address.hosts), sentinel_kwargs=own)
    kind = _AsyncMasterSSLConnection if options.pop("ssl", False) else _AsyncMasterConnection
    pool |= {"connection_pool_class": _WaitingSentinelPool, "connection_class": kind}
    return cast(redis.asyncio.Redis, watch.master_for(address.master, **pool, **options))


class _MasterConnection(SentinelManagedConnection):
    """Asks the Sentinels whenever it connects.

    redis-py's own does not when a call is retried: then it goes to the former master until the retries end.
    """

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        # False where the Sentinels have been asked
        if retry_socket_connect:
            self.connect()  # type: ignore[no-untyped-call]  # redis-py has no type for it
        else:
            super().connect_check_health(check_health, retry_socket_connect)


class _MasterSSLConnection(_MasterConnection, SentinelManagedSSLConnection):
    """The same over TLS."""


class _AsyncMasterConnection(AsyncSentinelManagedConnection):
    """The same for asyncio."""

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        if retry_socket_connect:
            await self.connect()  # type: ignore[no-untyped-call]  # redis-py has no type for it
        else:
            await super().connect_check_health(check_health, retry_socket_connect)


class _AsyncMasterSSLConnection(_AsyncMasterConnection, AsyncSentinelManagedSSLConnection):
    """The same for asyncio over TLS."""


class _WaitingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Finds the master by Sentinel, lets calls wait for a connection, and closes those to the Sentinels, too."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        # without those in use, the pool only leaves a former master
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


def _options(settings: QueueSettings) -> dict[str, Any]:
    return {
        **socket_limits(settings),
        "socket_keepalive_options": lost_host_options(),
        "health_check_interval": 30,
    }


def _retry_s(settings: QueueSettings, retry_s: float | None) -> tuple[float, float]:
    """Return for how long calls are retried, and for how long those whose connection the kernel has given up.

    Such a call has waited for _LOST_HOST_S, and would have waited for `redis_timeout_s` without `lost_host_options`.
    """
    seconds = min(RETRY_S, settings.redis_timeout_s) if retry_s is None else retry_s
    return seconds, settings.redis_timeout_s if seconds else 0.0
