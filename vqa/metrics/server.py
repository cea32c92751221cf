"""Shows metrics at an address, in a thread. prometheus-client is imported when it is needed: it is an extra."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from vqa.errors import NotReady, SettingsError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_MAX_PORT = 65_535

#: seconds for a scrape in progress to end
_JOIN_S = 2.0


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where metrics are shown."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `127.0.0.1:9110`, `[::1]:9110`, or `:9110` for all addresses. Raises ValueError."""
        host, colon, port = text.strip().rpartition(":")
        if not colon or not (port.isascii() and port.isdecimal()) or not 0 <= int(port) <= _MAX_PORT:
            raise ValueError("give address and port, as 127.0.0.1:9110, or :9110 for all addresses")
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ValueError("an IPv6 address stands in brackets, as [::1]:9110")
        return cls(host.strip("[]") or "0.0.0.0", int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def require_package(who: str) -> None:
    """Raise SettingsError if prometheus-client is not installed; `who` is the setting or command that needs it."""
    if find_spec("prometheus_client") is None:
        raise SettingsError(f"{who}: prometheus-client is not installed: pip install 'vqa-queue[metrics]'")


class MetricsServer:
    """Serves a registry's metrics over HTTP until it is stopped."""

    def __init__(self, address: ListenAddress, registry: CollectorRegistry, who: str) -> None:
        """Listen; port 0 takes a free one. Raises NotReady, which names `who` gave the address."""
        from prometheus_client import start_http_server

        try:
            self._server, self._thread = start_http_server(address.port, address.host, registry)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise NotReady(f"{who}: metrics cannot be shown at {address}: {why}") from None
        self.address = ListenAddress(address.host, self._server.server_port)

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._thread.join(_JOIN_S)
        self._server.server_close()
