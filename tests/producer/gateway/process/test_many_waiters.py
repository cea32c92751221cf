"""Thousands of requests that wait at once on one process."""

import asyncio
import json
import signal

import psutil

from producer import Client
from tests.producer.gateway.conftest import StartGateway
from tests.worker_process import StartWorker

MANY = 2000

#: more than a process with as many threads or connections to Redis would stay under
MAX_RSS = 400 * 2**20

#: seconds; the worker is stopped for less, and must not be missed
LEASE_S = "300"


def test_two_thousand_requests_wait_at_once_and_none_is_lost(
    start_gateway: StartGateway, start_worker: StartWorker, client: Client
) -> None:
    worker = start_worker(VQA_LEASE_S=LEASE_S, VQA_SLOTS="64")
    gateway = start_gateway(VQA_LEASE_S=LEASE_S)
    gateway.wait_ready()
    worker.process.send_signal(signal.SIGSTOP)
    memory = psutil.Process(gateway.process.pid).memory_info

    async def all_at_once() -> tuple[list[str], int]:
        async with asyncio.timeout(100):
            asking = [asyncio.create_task(ask(gateway.url, number)) for number in range(MANY)]
            while client.counts()["interactive"]["queued"] < MANY:
                await asyncio.sleep(0.2)
            waiting_rss = memory().rss
            worker.process.send_signal(signal.SIGCONT)
            return await asyncio.gather(*asking), waiting_rss

    answers, waiting_rss = asyncio.run(all_at_once())
    assert len(set(answers)) == MANY
    assert max(waiting_rss, memory().rss) < MAX_RSS


async def ask(url: str, number: int) -> str:
    """Ask on a connection of its own; return the answer, which is another for each number."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    fields = {"model": "any", "messages": [{"role": "user", "content": f"{number}"}], "vqa": {"timeout_s": 300}}
    body = json.dumps(fields).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    )
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    status, _, reply = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert status.startswith(b"HTTP/1.1 200 "), reply
    return str(json.loads(reply)["choices"][0]["message"]["content"])
