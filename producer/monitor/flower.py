"""`python -m producer.monitor.flower`: runs Flower for this queue, behind a password or a login by OAuth.

Flower's pages ask for user and password, or with FLOWER_AUTH for an account elsewhere; its /metrics and /healthcheck do
not, so it listens on loopback unless VQA_FLOWER_ADDRESS says otherwise. The password is passed inside this process:
other users can see a command line, and Flower splits the value of its own variable at commas.

Flower's own variables (FLOWER_URL_PREFIX, ...) and its configuration file win over what is set here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import suppress

from producer.monitor.flower_tasks import COLUMNS, format_task
from producer.process import USAGE
from vqa.celery import make_app
from vqa.errors import SettingsError
from vqa.flower_settings import FlowerSettings
from vqa.settings import QueueSettings

#: of a login by OAuth, all that it needs
_OAUTH = (
    "FLOWER_AUTH",
    "FLOWER_AUTH_PROVIDER",
    "FLOWER_OAUTH2_KEY",
    "FLOWER_OAUTH2_SECRET",
    "FLOWER_OAUTH2_REDIRECT_URI",
)

#: jobs that Flower keeps in memory, about 5 kB each
MAX_TASKS = 10_000


def installed() -> bool:
    """Return whether the extra `flower` is installed."""
    return importlib.util.find_spec("flower") is not None


def page(settings: FlowerSettings) -> str:
    """Return Flower's address for a browser on this machine."""
    return local_url(settings.address, settings.port)


def local_url(address: str, port: int) -> str:
    """Return the URL, for a client on this machine, of a server that listens on the address."""
    host = address if address not in {"", "0.0.0.0", "::"} else "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(settings: FlowerSettings, queue_settings: QueueSettings) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises SettingsError."""
    if not installed():
        raise SettingsError("Flower is not installed: pip install 'vqa-queue[flower]'")
    who = _who(settings)
    import flower.options  # noqa: F401  defines the options set below
    from tornado.options import options

    # this variable would override the option
    os.environ.pop("FLOWER_BASIC_AUTH", None)
    if not os.environ.get("FLOWER_AUTH"):
        options.basic_auth = [f"{settings.user}:{settings.password}"]
    options.tasks_columns = COLUMNS
    options.format_task = format_task
    # a reader that is gone is no reason to stop
    with suppress(OSError):
        print(f"Flower: {page(settings)}  {who}", flush=True)
    listen = [f"--address={settings.address}", f"--port={settings.port}"]
    make_app(queue_settings).start(argv=["flower", *listen, "--persistent=False", f"--max-tasks={MAX_TASKS}"])


def _who(settings: FlowerSettings) -> str:
    """Say who may log in. Raises SettingsError."""
    if os.environ.get("FLOWER_AUTH"):
        missing = [name for name in _OAUTH if not os.environ.get(name)]
        if missing:
            raise SettingsError(f"{missing[0]}: a login by OAuth (FLOWER_AUTH) needs it")
        return "login by OAuth, as FLOWER_AUTH says; VQA_FLOWER_PASSWORD is not asked for"
    if settings.password is None:
        raise SettingsError("VQA_FLOWER_PASSWORD: set a password of at least 8 characters for Flower's pages")
    return f"user {settings.user}, password as in VQA_FLOWER_PASSWORD"


def main() -> int:
    """Read the settings from the environment, serve, and return the exit status."""
    try:
        serve(FlowerSettings(), QueueSettings())
    except SettingsError as error:
        print(f"vqa: SettingsError: {error}", file=sys.stderr)
        return USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
