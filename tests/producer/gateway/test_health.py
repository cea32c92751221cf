import asyncio
import signal

import httpx2

from producer.gateway.app import create_app
from producer.gateway.process.lifeline import Lifeline
from producer.gateway.process.server import Server
from tests.producer.gateway.conftest import Asgi
from vqa.gateway_settings import FilesSettings, GatewaySettings
from vqa.settings import QueueSettings


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


def test_a_gateway_that_stops_says_so_at_once(queue_settings: QueueSettings) -> None:
    app = create_app(queue_settings, GatewaySettings(), FilesSettings())
    server = Server(app, 1000, Lifeline())

    async def look() -> None:
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway") as http,
        ):
            server.handle_exit(signal.SIGTERM, None)
            assert "the gateway is stopping" in (await http.get("/readyz")).json()["reasons"]

    asyncio.run(look())
