"""Without Redis nobody is let in, and a Redis that came back empty opens nothing."""

import asyncio
from pathlib import Path

import httpx2

from producer.gateway.access.api_key import new_api_key
from producer.gateway.access.budgets import Budget, Budgets
from producer.gateway.access.caller import Allowance, Caller
from producer.gateway.access.exchanges import Exchanges
from producer.gateway.access.key_ring import CACHE_S
from producer.gateway.access.keys import Keys
from producer.gateway.app import create_app
from tests.producer.conftest import wait_until
from tests.producer.gateway.gateway_process import StartGateway
from tests.redis_server import RedisServer
from vqa.errors import QueueUnavailable
from vqa.gateway_settings import GatewaySettings
from vqa.redis.connection import connect
from vqa.settings import QueueSettings


def ask(url: str, key: str | None) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx2.post(f"{url}/v1/chat/completions", json={}, headers=headers, timeout=20)


def test_without_redis_the_answer_is_503_and_after_a_loss_of_all_keys_401(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "redis") as server:
        gateway = start_gateway(redis=server.url, VQA_REDIS_TIMEOUT_S="1")
        assert ask(gateway.url, None).status_code == 400
        with connect(QueueSettings(redis_url=server.url)) as connection:
            key, _ = Keys(connection).create("test", allowance=Allowance(requests_per_minute=100))
        wait_until(lambda: ask(gateway.url, None).status_code == 401, "the key is seen", 2 * CACHE_S)
        assert ask(gateway.url, key).status_code == 400
        server.pause()
        assert_unavailable(gateway.url, key)
        assert_unavailable(gateway.url, new_api_key())
        assert ask(gateway.url, None).status_code == 401
        server.resume()
        wait_until(lambda: ask(gateway.url, key).status_code == 400, "Redis answers again")
        server.kill()
        assert_unavailable(gateway.url, key)
        server.start()
        assert ask(gateway.url, None).status_code == 401
        wait_until(lambda: ask(gateway.url, key).status_code == 401, "the lost key is refused", 2 * CACHE_S)


def assert_unavailable(url: str, key: str) -> None:
    away = ask(url, key)
    assert (away.status_code, away.json()["error"]["code"]) == (503, "queue_unavailable")
    assert int(away.headers["Retry-After"]) >= 1
    assert key not in away.text


def test_a_gateway_that_never_saw_redis_lets_nobody_in(tmp_path: Path) -> None:
    late = RedisServer(tmp_path / "late")
    app = create_app(QueueSettings(redis_url=late.url, redis_timeout_s=0.1), GatewaySettings(open=True))

    async def statuses() -> list[int]:
        client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway")
        async with app.router.lifespan_context(app), client as http:
            sent = [{}, *({"x-api-key": key} for key in (new_api_key(), "any"))]
            return [(await http.get("/v1/models", headers=headers)).status_code for headers in sent]

    assert asyncio.run(statuses()) == [503, 503, 503]


def test_requests_that_wait_for_others_fail_with_them(tmp_path: Path) -> None:
    late = RedisServer(tmp_path / "late")
    caller = Caller(key_id="key_a", allowance=Allowance(in_flight=1))

    async def run() -> list[BaseException | Budget]:
        exchanges = Exchanges(QueueSettings(redis_url=late.url, redis_timeout_s=0.5))
        budgets = Budgets(exchanges)
        async with asyncio.timeout(20):
            found = await asyncio.gather(*(budgets.look(caller) for _ in range(2000)), return_exceptions=True)
        await exchanges.close()
        return found

    # in turn, 32 at once, they would take half a minute
    assert {type(each) for each in asyncio.run(run())} == {QueueUnavailable}
