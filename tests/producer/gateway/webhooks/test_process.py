"""Webhooks of real gateway processes: killed, paired, cut off from Redis, and kept away from private addresses."""

import asyncio
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from redis import Redis

from producer import AsyncClient, Client
from producer.gateway.webhooks.records import DUE, WATCHED, WebhookRecords
from producer.gateway.webhooks.webhooks import open_webhooks
from tests.producer.conftest import MakeJob, PlayedWorker, answer, wait_until
from tests.producer.gateway.gateway_process import StartGateway
from tests.producer.gateway.webhooks.conftest import due_now, look_now
from tests.producer.gateway.webhooks.receiver import SECRET, Receiver, status
from tests.redis_server import RedisServer
from vqa.gateway_settings import GatewaySettings
from vqa.jobs.job import Job
from vqa.redis.connection import connect, connect_async
from vqa.settings import QueueSettings

_ALLOWED = {"VQA_GATEWAY_WEBHOOK_PRIVATE": "1", "VQA_GATEWAY_WEBHOOK_SECRET": SECRET}


def watch(settings: QueueSettings, ids: list[str], url: str) -> None:
    """Ask for webhooks, as the endpoints do."""

    async def main() -> None:
        connection = connect_async(settings)
        records = WebhookRecords(connection)
        for id in ids:
            await records.watch(id, url, "", "")
        await connection.aclose()

    asyncio.run(main())


def told(receiver: Receiver) -> Counter[str]:
    """How often each job's end was told; the signatures are right."""
    return Counter(request.verified()["data"]["id"] for request in receiver.received)


def test_a_killed_gateway_loses_no_webhook(
    start_gateway: StartGateway,
    receiver: Receiver,
    redis: Redis,
    queue_settings: QueueSettings,
    client: Client,
    worker: PlayedWorker,
    question: MakeJob,
) -> None:
    killed, over = start_gateway(**_ALLOWED), threading.Event()

    def never(handler: BaseHTTPRequestHandler) -> None:
        over.wait(30)

    jobs = [question() for _ in range(80)]
    ids = [job.id for job in jobs]
    watch(queue_settings, ids, receiver.url)
    client.submit_many(jobs)
    # ten are told, ten are being told when the process dies, and the others have not ended
    for id in ids[:10]:
        worker.close(id, answer(id, "yes"))
    receiver.wait(10)
    wait_until(lambda: redis.zcard(DUE) == 0, "ten deliveries are noted")
    receiver.always = never
    for id in ids[10:20]:
        worker.close(id, answer(id, "yes"))
    under_way = receiver.wait(20)[10:]
    killed.kill()
    receiver.always = status(204)
    # what the killed process held; otherwise 20 s pass. Later it would end leases of the new processes, too
    due_now(redis)
    start_gateway("--processes", "2", **_ALLOWED)
    for id in ids[20:]:
        worker.close(id, answer(id, "yes"))
    look_now(redis)
    receiver.wait(90, timeout_s=60)
    over.set()
    wait_until(lambda: redis.zcard(DUE) == redis.zcard(WATCHED) == 0, "nothing is left to do")
    assert told(receiver) == Counter(ids[:10]) + Counter(ids[10:20] * 2) + Counter(ids[20:])
    # what came twice has the same id
    assert len({request.id for request in receiver.received}) == 80
    assert {request.id for request in under_way} <= {request.id for request in receiver.received[20:]}


def test_a_private_address_is_not_reached_unless_allowed(
    start_gateway: StartGateway, receiver: Receiver, redis: Redis, queue_settings: QueueSettings, client: Client
) -> None:
    gateway = start_gateway(VQA_GATEWAY_WEBHOOK_SECRET=SECRET)
    hosts = ("127.0.0.1", "localhost")
    for host in hosts:
        # past the check at acceptance, as a name that resolves to another address later is
        watch(queue_settings, [f"job-{host}"], f"http://{host}:{receiver.port}/")
        client.submit(Job(id=f"job-{host}", messages=[{"role": "user", "content": "?"}]))
        client.cancel(f"job-{host}")
    wait_until(
        lambda: gateway.log.read_text().count("not every address of the host is public; again in") == 2, "two attempts"
    )
    assert receiver.received == []
    assert redis.zcard(DUE) == 2


def test_an_outage_of_redis_is_one_line_and_loses_nothing(
    receiver: Receiver, tmp_path: Path, question: MakeJob, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path / "own", append_only=True) as server:
        settings = QueueSettings(redis_url=server.url)
        jobs = [question() for _ in range(3)]

        def restart() -> None:
            with Client(settings) as client, connect(settings) as redis:
                watch(settings, [job.id for job in jobs], receiver.url)
                client.submit_many(jobs)
                server.kill()
                wait_until(lambda: "waiting for" in caplog.text, "the outage is told")
                server.start()
                for job in jobs:
                    client.cancel(job.id)
                receiver.wait(3)
                wait_until(lambda: redis.zcard(DUE) == redis.zcard(WATCHED) == 0, "nothing is left to do")

        async def main() -> None:
            allowed = GatewaySettings(webhook_private=True, webhook_secret=SECRET)
            async with AsyncClient(settings) as client, open_webhooks(client, allowed):
                await asyncio.to_thread(restart)

        asyncio.run(main())
    assert told(receiver) == Counter(job.id for job in jobs)
    assert caplog.text.count("waiting for") == 1
    assert "Traceback" not in caplog.text
