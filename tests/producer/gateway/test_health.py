import asyncio

import httpx2

from tests.producer.gateway.conftest import Asgi


def test_a_gateway_with_a_worker_is_ready(http: httpx2.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready", "reasons": [], "workers": 1}


def test_a_gateway_without_a_worker_is_alive_and_not_ready(asgi: Asgi) -> None:
    async def look() -> None:
        async with asgi() as http:
            assert (await http.get("/healthz")).status_code == 200
            reply = await http.get("/readyz")
            assert (reply.status_code, reply.json()["reasons"]) == (503, ["no worker is ready"])

    asyncio.run(look())
