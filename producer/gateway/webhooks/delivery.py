"""Delivers events that are due, several at once, and decides whether to try again after each attempt."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urlsplit

from producer.gateway.webhooks.records import DUE, Webhook, WebhookRecords
from producer.gateway.webhooks.schedule import delay_s
from producer.gateway.webhooks.sender import TIMEOUT_S, Reply, Sender
from producer.gateway.webhooks.spans import traced
from vqa.redis.connection import REDIS_ERRORS
from vqa.redis.error_replies import describe

log = logging.getLogger(__name__)

#: attempts at once, and seconds to wait for one to end
_MAX_ATTEMPTS, _WAIT_S = 32, 1.0

#: seconds for which no other process tries: longer than an attempt takes
_LEASE_S = TIMEOUT_S + 5


class Deliveries:
    """The attempts of one process."""

    def __init__(self, records: WebhookRecords, sender: Sender, secret: str | None) -> None:
        self._records = records
        self._sender = sender
        self._secret = secret
        self._attempts: set[asyncio.Task[None]] = set()

    async def start(self) -> bool:
        """Start attempts that are due, as far as there are places; return whether more are due.

        Raises redis.exceptions.RedisError.
        """
        if len(self._attempts) >= _MAX_ATTEMPTS:
            await asyncio.wait(self._attempts, timeout=_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        free = _MAX_ATTEMPTS - len(self._attempts)
        claimed = await self._records.claim(DUE, free, _LEASE_S) if free else []
        for webhook in claimed:
            attempt = asyncio.create_task(self._attempt(webhook))
            self._attempts.add(attempt)
            attempt.add_done_callback(self._attempts.discard)
        return bool(claimed) and len(claimed) == free

    async def finish(self, within_s: float) -> None:
        """Let attempts in progress end; what is cut off is tried again when its lease has run out."""
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=within_s)
        for attempt in self._attempts:
            attempt.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)

    async def _attempt(self, webhook: Webhook) -> None:
        try:
            await self._after(webhook, await self._send(webhook))
        except REDIS_ERRORS as error:
            log.warning("webhook of %s may be sent again: Redis did not note its end: %s", webhook.id, describe(error))

    async def _send(self, webhook: Webhook) -> Reply:
        try:
            return await self._try(webhook)
        except REDIS_ERRORS:
            raise
        except Exception:
            # counts as a failure: without an end it would be tried again whenever its lease runs out
            log.exception("webhook of %s: the attempt failed unexpectedly and is repeated", webhook.id)
            return Reply(0, "the gateway failed unexpectedly")

    async def _try(self, webhook: Webhook) -> Reply:
        if await self._records.is_disabled(webhook):
            return Reply(410, "the receiver answered an earlier event with 410")
        secret = webhook.secret or self._secret
        if secret is None:
            return Reply(0, "VQA_GATEWAY_WEBHOOK_SECRET is not set any more")
        return await traced(webhook, self._sender.send(webhook, secret))

    async def _after(self, webhook: Webhook, reply: Reply) -> None:
        # the rest of the URL may be a secret
        about = f"webhook of {webhook.id} to {urlsplit(webhook.url).hostname}, attempt {webhook.attempt}: {reply.said}"
        if reply.delivered:
            log.info("%s", about)
            await self._records.close(webhook.id, "delivered")
        elif reply.gone:
            log.info("%s; this key's earlier webhooks are not sent there any more", about)
            await self._records.disable(webhook)
            await self._records.close(webhook.id, "gone")
        elif (pause_s := delay_s(webhook.attempt, reply.retry_after_s)) is not None:
            log.info("%s; again in %.0f s", about, pause_s)
            await self._records.defer(DUE, {webhook.id: pause_s})
        else:
            log.warning("%s; given up", about)
            await self._records.close(webhook.id, "given_up")
