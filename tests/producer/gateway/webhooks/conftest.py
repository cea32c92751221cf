"""A receiver, and the parts of one gateway process that deliver to it, run step by step."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from redis import Redis

from producer.client.aio import AsyncClient
from producer.gateway.webhooks.delivery import Deliveries
from producer.gateway.webhooks.records import DUE, WATCHED, WebhookRecords
from producer.gateway.webhooks.sender import Sender
from producer.gateway.webhooks.watch import Watch
from tests.producer.gateway.webhooks.receiver import SECRET, Receiver
from vqa.net.guarded import GuardedBackend
from vqa.redis.connection import connect_async
from vqa.settings import QueueSettings


@dataclass
class Process:
    """What a gateway process runs in rounds."""

    client: AsyncClient
    records: WebhookRecords
    watch: Watch
    deliveries: Deliveries

    async def deliver(self) -> None:
        """One round of deliveries, to its end."""
        await self.deliveries.start()
        await self.deliveries.finish(20)


Body = Callable[[Process], Awaitable[None]]
#: `rounds(body)` runs the body with a process
Rounds = Callable[[Body], None]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@asynccontextmanager
async def opened(settings: QueueSettings, private: bool = True) -> AsyncIterator[Process]:
    """A process that may reach this machine, and signs with SECRET."""
    async with AsyncClient(settings) as client:
        connection = connect_async(settings)
        records = WebhookRecords(connection)
        deliveries = Deliveries(records, Sender(GuardedBackend(private)), SECRET)
        try:
            yield Process(client, records, Watch(records, client), deliveries)
        finally:
            await deliveries.finish(0)
            await connection.aclose()


@pytest.fixture
def rounds(queue_settings: QueueSettings) -> Rounds:
    def run(body: Body) -> None:
        async def main() -> None:
            async with opened(queue_settings) as process, asyncio.timeout(60):
                await body(process)

        asyncio.run(main(), debug=True)

    return run


def pass_time(redis: Redis, of: str) -> None:
    """Let every time in the sorted set pass: that of a pause, or of another process's lease."""
    for id in redis.zrange(of, 0, -1):
        # unless it has just been delivered or seen to have ended
        redis.zadd(of, {id: 0}, xx=True)


def look_now(redis: Redis) -> None:
    pass_time(redis, WATCHED)


def due_now(redis: Redis) -> None:
    pass_time(redis, DUE)
