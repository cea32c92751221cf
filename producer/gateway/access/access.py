"""Opens the keys and limits of one gateway process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from producer.gateway.access.admission import Admission
from producer.gateway.access.exchanges import Exchanges
from producer.gateway.access.key_ring import KeyRing
from vqa.gateway_settings import GatewaySettings
from vqa.settings import QueueSettings


@asynccontextmanager
async def open_access(
    queue_settings: QueueSettings, settings: GatewaySettings
) -> AsyncIterator[tuple[KeyRing, Admission]]:
    """Open the connection for keys and limits; close it at the end, after the last settlement."""
    exchanges = Exchanges(queue_settings)
    admission = Admission(exchanges)
    try:
        yield KeyRing(exchanges, settings.takes_anybody), admission
    finally:
        await admission.close()
        await exchanges.close()
