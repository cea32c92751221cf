"""`python -m producer.monitor.health NAME`: a container's health check; exits with 0 or 1 and prints no secrets.

`queue`: Redis answers. `worker`: a worker on this host has renewed within the lease time, as it does from the time its
model is loaded. `flower`: Flower answers on its one page without a password. `gateway`: it answers at all, whether or
not jobs can be answered now: a restart would mend neither Redis nor workers.
"""

from __future__ import annotations

import socket
import sys
import urllib.request
from collections.abc import Callable

from redis.exceptions import RedisError

from producer.monitor.flower import local_url, page
from producer.process import USAGE
from vqa.errors import SettingsError
from vqa.flower_settings import FlowerSettings
from vqa.gateway_settings import GatewaySettings
from vqa.ledger.ledger import Ledger
from vqa.redis.connection import connect
from vqa.settings import QueueSettings


def queue() -> bool:
    with connect(QueueSettings(), retry_s=0) as connection:
        return bool(connection.ping())


def worker() -> bool:
    settings, host = QueueSettings(), socket.gethostname()
    with connect(settings, retry_s=0) as connection:
        return any(info.name.endswith(f"@{host}") for info in Ledger(connection).workers(settings.lease_s))


def flower() -> bool:
    with urllib.request.urlopen(f"{page(FlowerSettings())}/healthcheck", timeout=5) as reply:
        return bool(reply.status == 200)


def gateway() -> bool:
    settings = GatewaySettings()
    with urllib.request.urlopen(f"{local_url(settings.address, settings.port)}/healthz", timeout=5) as reply:
        return bool(reply.status == 200)


CHECKS: dict[str, Callable[[], bool]] = {"queue": queue, "worker": worker, "flower": flower, "gateway": gateway}


def main(arguments: list[str]) -> int:
    """Run the check; return the exit status, 2 if the name or a setting is wrong."""
    if len(arguments) != 1 or arguments[0] not in CHECKS:
        print(f"usage: python -m producer.monitor.health {{{','.join(CHECKS)}}}", file=sys.stderr)
        return USAGE
    try:
        healthy = CHECKS[arguments[0]]()
    except SettingsError as error:
        print(f"vqa: SettingsError: {error}", file=sys.stderr)
        return USAGE
    except (RedisError, OSError) as error:
        print(f"{arguments[0]}: {type(error).__name__}", file=sys.stderr)
        return 1
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
