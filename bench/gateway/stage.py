"""Redis, a worker and a gateway, and the requests that they get."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

import httpx2
import psutil

from bench.media.images import photo, renewed
from bench.stage import process, worker
from producer import Client
from producer.demo.redis_server import EmbeddedRedis

QUESTION = "What is on the picture?"

#: seconds until the gateway has found the worker
_READY_S = 60.0

#: requests have different image bytes as long as fewer are in progress
_IMAGES = 64


@dataclass(frozen=True)
class Stage:
    """The processes under load, apart from Redis."""

    client: Client
    url: str
    gateway: psutil.Process
    worker: psutil.Process

    @property
    def redis_url(self) -> str:
        return self.client.settings.redis_url

    def gateways(self) -> list[psutil.Process]:
        """Return the gateway's processes."""
        return [self.gateway, *self.gateway.children(recursive=True)]


@contextmanager
def stage(processes: int = 1, **variables: str) -> Iterator[Stage]:
    """Start the processes; `variables` are the worker's settings."""
    with EmbeddedRedis() as server, Client(redis_url=server.url) as client, worker(client, **variables) as celery:
        port = _free_port()
        command = ["-m", "producer.cli.main", "gateway", "--port", str(port), "--processes", str(processes)]
        with process(*command, VQA_REDIS_URL=server.url) as gateway:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url)
            yield Stage(client, url, psutil.Process(gateway.pid), psutil.Process(celery.pid))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_until_ready(url: str) -> None:
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        try:
            if httpx2.get(f"{url}/readyz").status_code == HTTPStatus.OK:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the gateway at {url} was not ready within {_READY_S:.0f} s")


def chat_body(image: bytes | None = None, **fields: object) -> bytes:
    """Return the body of a chat completion, about an image if there is one."""
    content: list[dict[str, object]] = [{"type": "text", "text": QUESTION}]
    if image is not None:
        data = base64.b64encode(image).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}})
    return json.dumps({"model": "any", "messages": [{"role": "user", "content": content}], **fields}).encode()


def images() -> Sequence[bytes]:
    """Return images of 720 x 540 pixels and about 107 kB, of the same pixels in different bytes."""
    image = photo(1, 720, 540)
    return [renewed(image, str(number)) for number in range(_IMAGES)]


class CpuTime:
    """CPU time of processes since this object was made."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._processes = processes
        self._before = self._now()

    def _now(self) -> float:
        return sum(sum(each.cpu_times()[:2]) for each in self._processes)

    def ms_per(self, requests: int) -> float:
        """Return the ms of user and system time of each of so many requests."""
        return 1000 * (self._now() - self._before) / requests
