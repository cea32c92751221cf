"""What a demo shows in a browser: the gateway's page, and Flower. A demo goes on without either."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from producer.demo.child import Child
from producer.demo.processes import Processes, await_ready
from producer.demo.redis_server import free_port, is_free
from producer.monitor import flower
from vqa.errors import NotReady
from vqa.flower_settings import FlowerSettings
from vqa.gateway_settings import GatewaySettings

#: what the extra `gateway` brings and nothing else does
_PACKAGES = ("fastapi", "uvicorn")

_READY_S = 30.0


@dataclass(frozen=True, slots=True)
class WebServer:
    """A started server; `url` is its address for a browser on this machine."""

    name: str
    url: str
    child: Child
    address: str
    port: int

    def wait(self, say: Callable[[str], None]) -> bool:
        """Wait until the server listens, and say where; return False if it does not."""
        try:
            await_ready(self.name, self.child, lambda: not is_free(self.address, self.port), _READY_S)
        except NotReady as error:
            say(f"{error}; continuing without it")
            return False
        say(f"{self.name}: ready at {self.url}")
        return True


def start_gateway(processes: Processes, redis_url: str, drain_s: float) -> WebServer | str:
    """Start the gateway, or return why not. Raises SettingsError."""
    if any(find_spec(name) is None for name in _PACKAGES):
        return "Gateway: not installed (pip install 'vqa-queue[gateway]')"
    settings = GatewaySettings()
    port = _port(settings.address, settings.port)
    environment = {
        "VQA_REDIS_URL": redis_url,
        "VQA_GATEWAY_PORT": str(port),
        "VQA_GATEWAY_DRAIN_S": str(drain_s),
    }
    child = processes.start("gateway", ["producer.cli.main", "gateway"], environment)
    return WebServer("Gateway", flower.local_url(settings.address, port), child, settings.address, port)


def flower_settings() -> FlowerSettings:
    """Return Flower's settings, with a random password if none is set, and a free port if the set one is taken."""
    settings = FlowerSettings()
    password = settings.password or secrets.token_urlsafe(9)
    return settings.model_copy(update={"port": _port(settings.address, settings.port), "password": password})


def start_flower(processes: Processes, redis_url: str, settings: FlowerSettings) -> WebServer | str:
    """Start Flower, or return why not."""
    if not flower.installed():
        return "Flower: not installed (pip install 'vqa-queue[flower]')"
    environment = {
        "VQA_REDIS_URL": redis_url,
        "VQA_FLOWER_PASSWORD": settings.password or "",
        "VQA_FLOWER_PORT": str(settings.port),
    }
    child = processes.start("flower", ["producer.monitor.flower"], environment)
    return WebServer("Flower", flower.page(settings), child, settings.address, settings.port)


def _port(address: str, wanted: int) -> int:
    return wanted if wanted and is_free(address, wanted) else free_port(address)
