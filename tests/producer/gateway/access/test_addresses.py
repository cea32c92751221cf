"""Keys and limits over each kind of address of VQA_REDIS_URL, of which the library for requests knows nothing."""

import asyncio
from pathlib import Path

from producer.demo.redis_server import free_port
from producer.gateway.access.access import open_access
from producer.gateway.access.caller import Allowance
from producer.gateway.access.keys import Keys
from tests.e2e.test_addresses import PASSWORD, QUOTED, Certificates
from tests.redis_server import RedisServer
from vqa.gateway_settings import GatewaySettings
from vqa.redis.connection import connect
from vqa.settings import QueueSettings

LIMITS = Allowance(requests_per_minute=5, requests_per_day=50, tokens_per_minute=1000, in_flight=2)


def use(url: str) -> None:
    """Let a new key in, count its request, reserve and settle."""
    settings = QueueSettings(redis_url=url, redis_timeout_s=5)
    with connect(settings) as connection:
        key, _ = Keys(connection).create("test", allowance=LIMITS)

    async def run() -> None:
        async with open_access(settings, GatewaySettings()) as (ring, admission):
            caller = await ring.caller(key)
            await admission.count(caller)
            await admission.reserve(caller, "a", tokens=100, lane="bulk", timeout_s=60)
            await admission.settle(caller, "a", 40)
            requests, tokens = caller.usage.requests, caller.usage.tokens
            assert requests
            assert tokens
            assert (requests.used, tokens.used) == (1, 40)

    asyncio.run(run())


def test_limits_over_tls_with_a_password(tmp_path: Path) -> None:
    certificates, port = Certificates.make(tmp_path / "certificates"), free_port()
    with RedisServer(tmp_path / "redis", *certificates.lines(port), f'requirepass "{PASSWORD}"', port=port):
        use(f"rediss://:{QUOTED}@127.0.0.1:{port}/0?ssl_ca_certs={certificates.authority}")


def test_limits_behind_a_sentinel(tmp_path: Path) -> None:
    port, watch = free_port(), free_port()
    own = [f"port {port}", f'requirepass "{PASSWORD}"']
    lines = [f"sentinel monitor vqa 127.0.0.1 {port} 1", f'sentinel auth-pass vqa "{PASSWORD}"', "requirepass watcher"]
    sentinel = RedisServer(tmp_path / "sentinel", f"port {watch}", *lines, port=watch, arguments=["--sentinel"])
    with RedisServer(tmp_path / "redis", *own, port=port), sentinel:
        use(f"sentinel://:{QUOTED}@127.0.0.1:{watch}/3?master=vqa&sentinel_password=watcher")
