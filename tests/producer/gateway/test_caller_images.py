"""Whose images a gateway fetches when it fetches as many as it may."""

import asyncio
import threading
from contextlib import closing

from producer.gateway.caller_images import CallerImages
from producer.images.parts import IMAGE
from producer.images.reader import ImageReader
from tests.vqa.fetch.site import Site, response, says, served
from vqa.fetch.settings import FetchSettings
from vqa.gateway_settings import GatewaySettings
from vqa.settings import QueueSettings


def test_three_keys_with_slow_servers_do_not_take_all_places(png: bytes) -> None:
    let_go = threading.Event()

    async def slow(head: bytes, writer: asyncio.StreamWriter) -> None:
        while not let_go.is_set():
            await asyncio.sleep(0.01)
        await says(response(png))(head, writer)

    held, free = Site(slow), Site(says(response(png)))
    settings, rules = QueueSettings(), FetchSettings(hosts="http://127.0.0.1:*,http://localhost:*", private=True)

    async def main() -> None:
        # six requests to each host, so twelve in all: as many as the gateway makes at once
        first, second = (f"http://{host}:{held.port}" for host in ("127.0.0.1", "localhost"))
        wanted = {
            "a": [f"{first}/a{number}" for number in range(4)],
            "b": [*(f"{first}/b{number}" for number in range(2)), *(f"{second}/b{number}" for number in range(2))],
            "c": [f"{second}/c{number}" for number in range(4)],
        }
        tasks = []
        for key, urls in wanted.items():
            tasks.append(asyncio.create_task(images.fetch(dict.fromkeys(urls, IMAGE), key, 20)))
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while held.running < 10:
                await asyncio.sleep(0.01)
        url = f"http://localhost:{free.port}/"
        assert await images.fetch({url: IMAGE}, "d", 5) == {url: png}
        assert held.running == 10
        let_go.set()
        assert [len(await task) for task in tasks] == [4, 4, 4]

    with served(held, free), closing(CallerImages(settings, GatewaySettings(), ImageReader(settings, rules))) as images:
        asyncio.run(main())
