"""The Celery app of a `BrokenWorker`."""

import os
import threading

from workers.consumer.intake import Intake
from workers.process.lifecycle import make_worker_app

if os.environ.get("BREAKS") == "stand":
    Intake.receive = lambda *_: threading.Event().wait()

app = make_worker_app("tests.broken_engine:make_engine")
