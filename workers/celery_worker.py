"""Celery's `worker` command alone: `python -m workers.celery_worker workers.app -n card0@%h`.

`python -m celery` imports all commands first, those of other packages too: a shell and, where Flower is installed, a
web server. A worker would start with a third more of a processor's time, and keep their memory.
"""

from __future__ import annotations

import os
import sys

from celery.app.utils import find_app
from celery.bin.base import CLIContext
from celery.bin.worker import worker


def main(app: str, *options: str) -> None:
    """Run a worker of the Celery app `app`, which `celery -A` would find; the options are those of `celery worker`."""
    context = CLIContext(find_app(app), no_color=bool(os.environ.get("NO_COLOR")), workdir=None)
    worker.main(options, prog_name="worker", obj=context, auto_envvar_prefix="CELERY_WORKER")


if __name__ == "__main__":
    if not sys.argv[1:] or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m workers.celery_worker APP [OPTION ...]; `APP --help` lists the options")
    main(*sys.argv[1:])
