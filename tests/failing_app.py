"""The Celery app of a worker whose models fail.

`org/broken` cannot be loaded, `org/slow` loads once LOADS exists, and the first job of `org/crashing` crashes its
engine.
"""

import os
import time
from pathlib import Path

from vqa.errors import NotReady
from workers.engine.echo.engine import EchoEngine
from workers.process.assembly import Worker
from workers.process.lifecycle import make_worker_app

_load = Worker.load


def load(worker: Worker) -> None:
    match os.environ.get("VQA_MODEL"):
        case "org/broken":
            raise NotReady("the card has 3.0 GiB free,\nand the weights need 58.0 GiB")
        case "org/crashing":
            EchoEngine._submit = lambda engine, pending, _: engine._crash(pending.prompt.id)
        case "org/slow":
            while not Path(os.environ["LOADS"]).exists():
                time.sleep(0.05)
    _load(worker)


Worker.load = load
app = make_worker_app()
