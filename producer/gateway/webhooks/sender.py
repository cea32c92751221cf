"""One attempt to deliver an event: signed as Standard Webhooks says, and sent to a checked address."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import httpcore2
import standardwebhooks

from producer.gateway.webhooks.records import Webhook
from vqa.net.bounded import BoundedBackend
from vqa.net.guarded import GuardedBackend
from vqa.net.retry_after import retry_after_s

#: seconds for an attempt in all
TIMEOUT_S = 15.0
#: bytes read of a response: interim ones (1xx), of which there may be any number, cost the event loop 50 us each
_MOST_BYTES = 32 * 2**10

_USER_AGENT = f"vqa-queue/{version('vqa-queue')}"

#: what went wrong below HTTP
_FAILURES = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
    TimeoutError,
    ssl.SSLError,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of an attempt."""

    #: HTTP status; 0 if there was no response
    status: int
    #: for the log
    said: str
    #: seconds that the receiver asks for
    retry_after_s: float | None = None
    #: class of what went wrong below HTTP
    failure: str = ""

    @property
    def delivered(self) -> bool:
        return 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        return self.status == 410


class Sender:
    """Sends events. Redirects are not followed, and responses are not read beyond their headers."""

    def __init__(self, network: GuardedBackend, context: ssl.SSLContext | None = None) -> None:
        self._network = BoundedBackend(network, _MOST_BYTES)
        self._context = context or httpcore2.default_ssl_context()

    async def send(self, webhook: Webhook, secret: str) -> Reply:
        """Send the event. Never raises for what the receiver does."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._post(webhook, _headers(webhook, secret))
        except _FAILURES as error:
            return Reply(0, str(error) or type(error).__name__, failure=type(error).__name__)

    async def _post(self, webhook: Webhook, headers: list[tuple[str, str]]) -> Reply:
        # a pool of its own: its connection ends with the attempt, whatever the receiver would still send
        async with (
            httpcore2.AsyncConnectionPool(self._context, network_backend=self._network, max_connections=1) as pool,
            pool.stream("POST", webhook.url, headers=headers, content=webhook.body.encode()) as response,
        ):
            return Reply(response.status, f"HTTP {response.status}", retry_after_s(response.headers))


def _headers(webhook: Webhook, secret: str) -> list[tuple[str, str]]:
    now = datetime.now(UTC)
    return [
        ("Content-Type", "application/json"),
        ("User-Agent", _USER_AGENT),
        ("Accept", "*/*"),
        ("Webhook-Id", webhook.event),
        ("Webhook-Timestamp", str(int(now.timestamp()))),
        ("Webhook-Signature", standardwebhooks.Webhook(secret).sign(webhook.event, now, webhook.body)),
    ]
