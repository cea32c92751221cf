"""`python -m producer.monitor.flower`: Flower's pages about this queue, behind a password.

Flower's pages ask for user and password; its /metrics and /healthcheck do not, so it listens on loopback unless
VQA_FLOWER_ADDRESS says otherwise. The password is handed over inside this process: a command line is everyone's to
see, and Flower would split one from its own variable at commas.
"""

from __future__ import annotations

import importlib.util
import os
import sys

from producer.process import USAGE
from vqa.celery import make_app
from vqa.errors import SettingsError
from vqa.settings import FlowerSettings, QueueSettings

#: jobs that Flower keeps in memory, about 5 kB each
MAX_TASKS = 10_000


def installed() -> bool:
    """Whether the extra `flower` is there."""
    return importlib.util.find_spec("flower") is not None


def page(settings: FlowerSettings) -> str:
    """Where a browser on this machine finds Flower."""
    host = settings.address if settings.address not in {"", "0.0.0.0", "::"} else "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def serve(settings: FlowerSettings, queue_settings: QueueSettings) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises SettingsError."""
    if not installed():
        raise SettingsError("Flower is not installed: pip install 'vqa-queue[flower]'")
    if settings.password is None:
        raise SettingsError("VQA_FLOWER_PASSWORD: Flower's pages need a password of at least 8 characters")
    import flower.options  # noqa: F401  defines what is set below
    from tornado.options import options

    # Flower reads this variable last, over what is set here
    os.environ.pop("FLOWER_BASIC_AUTH", None)
    options.basic_auth = [f"{settings.user}:{settings.password}"]
    print(f"Flower: {page(settings)}  user {settings.user}, password as in VQA_FLOWER_PASSWORD", flush=True)
    where = [f"--address={settings.address}", f"--port={settings.port}"]
    make_app(queue_settings).start(argv=["flower", *where, "--persistent=False", f"--max-tasks={MAX_TASKS}"])


def main() -> int:
    """Settings from the environment; the process's exit status."""
    try:
        serve(FlowerSettings(), QueueSettings())
    except SettingsError as error:
        print(f"vqa: SettingsError: {error}", file=sys.stderr)
        return USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
