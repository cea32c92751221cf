"""Webhooks of one gateway process: accepts them, and runs the rounds that deliver their events.

Any process goes on with what another has accepted, noticed or tried. GPU hosts often have no way out of their network,
and workers have no HTTP client, so this is not a task of the workers' janitor.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import redis.asyncio

from producer.client.aio import AsyncClient
from producer.client.outage import redis_errors
from producer.gateway.access.caller import Caller
from producer.gateway.errors import InvalidRequest
from producer.gateway.webhooks.delivery import Deliveries
from producer.gateway.webhooks.records import WebhookRecords
from producer.gateway.webhooks.sender import Sender
from producer.gateway.webhooks.url import check_url
from producer.gateway.webhooks.watch import Watch
from vqa.errors import QueueUnavailable
from vqa.gateway_settings import GatewaySettings
from vqa.net.guarded import GuardedBackend
from vqa.redis.connection import REDIS_ERRORS, connect_async
from vqa.redis.outage import RedisOutage

log = logging.getLogger(__name__)

#: seconds between two rounds in which nothing was left to do
_ROUND_S = 1.0
#: after a round that failed
_PAUSE_S = 2.0
#: seconds that attempts in progress get when the process stops
_FINISH_S = 5.0


@asynccontextmanager
async def open_webhooks(
    client: AsyncClient, settings: GatewaySettings, sender: Sender | None = None
) -> AsyncIterator[Webhooks]:
    """Open a Redis connection for webhooks, and run the rounds in the background until the end."""
    connection = connect_async(client.settings)
    try:
        webhooks = Webhooks(connection, client, settings, sender or Sender(GuardedBackend(settings.webhook_private)))
        async with webhooks.running():
            yield webhooks
    finally:
        await connection.aclose()


class Webhooks:
    """Accepts webhooks and, inside `running`, delivers their events."""

    def __init__(
        self,
        connection: redis.asyncio.Redis,
        client: AsyncClient,
        settings: GatewaySettings,
        sender: Sender,
    ) -> None:
        self._settings = settings
        self._client = client
        self._records = WebhookRecords(connection)
        self._watch = Watch(self._records, client)
        self._deliveries = Deliveries(self._records, sender, settings.webhook_secret)

    def check(self, url: object, caller: Caller, param: str = "webhook.url") -> str:
        """Return the URL in its normal form. Raises InvalidRequest if it, or the lack of a secret, is refused."""
        normal = check_url(url, self._settings.webhook_private, param)
        if not (caller.webhook_secret or self._settings.webhook_secret):
            raise InvalidRequest(
                f"{param}: the gateway has no secret to sign with; use an API key, or set VQA_GATEWAY_WEBHOOK_SECRET",
                param=param,
                code="no_webhook_secret",
            )
        return normal

    async def watch(
        self,
        id: str,
        url: object,
        caller: Caller,
        param: str = "webhook.url",
        *,
        late: bool = False,
        trace: str | None = None,
    ) -> None:
        """Tell `url` when the job or batch ends; call this before it is submitted, so that its end is not missed.

        With `late`, also tell it once if the batch is predicted to expire before it ends. `trace` is the W3C
        traceparent of the request, of which deliveries are part.

        Watching an id again has no effect. Raises InvalidRequest or QueueUnavailable.
        """
        normal = self.check(url, caller, param)
        with redis_errors(self._client.settings):
            await self._records.watch(id, normal, caller.webhook_secret or "", caller.key_id, late, trace)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the rounds in the background."""
        stopping = asyncio.Event()
        rounds = asyncio.create_task(self._run(stopping), name="webhooks")
        try:
            yield
        finally:
            stopping.set()
            await asyncio.wait({rounds}, timeout=_FINISH_S)
            # on Python 3.11, asyncio.wait_for in redis-py loses some cancellations; the loop ends nevertheless
            rounds.cancel()
            await asyncio.gather(rounds, return_exceptions=True)
            await self._deliveries.finish(_FINISH_S)

    async def _run(self, stopping: asyncio.Event) -> None:
        outage = RedisOutage(self._client.settings)
        while not stopping.is_set():
            pause_s = _ROUND_S
            try:
                more = [await self._watch.look(), await self._deliveries.start()]
                outage.answered()
                pause_s = 0.0 if any(more) else _ROUND_S
            except (QueueUnavailable, *REDIS_ERRORS) as error:
                outage.failed(error)
                pause_s = _PAUSE_S
            except Exception:
                log.exception("a round of webhooks failed unexpectedly; the next one follows in %.0f s", _PAUSE_S)
                pause_s = _PAUSE_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s * random.uniform(0.8, 1.2)):
                    await stopping.wait()
