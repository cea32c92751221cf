"""What a worker process does at each of Celery's signals, and its Celery app."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import Celery, signals

from vqa.celery import make_app
from vqa.errors import SettingsError, VQAError
from vqa.log.format import is_json
from vqa.log.output import protect_output
from vqa.settings import QueueSettings
from workers.engine.base import LoadingCrashed
from workers.engine.factory import FACTORY
from workers.log import set_up_logging
from workers.process.assembly import Worker
from workers.supervisor.link import EXIT_CRASHED, EXIT_NEVER_READY, READY, SupervisorLink
from workers.tasks import AnswerTask

log = logging.getLogger(__name__)

#: seconds after which a computing thread gives way to one that comes back from Redis or the engine; Python's are 5 ms
_SWITCH_S = 0.0005


class Lifecycle:
    """The receivers of Celery's signals, in the order in which they are called."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._draining = False

    def connect_signals(self) -> None:
        signals.setup_logging.connect(self._set_up_logging, weak=False)
        signals.worker_shutting_down.connect(self._drain, weak=False)
        signals.worker_shutdown.connect(self._end, weak=False)
        for moment, step in (
            (signals.celeryd_init, self._configure),
            (signals.worker_init, self._load),
            (signals.worker_ready, self._ready),
        ):
            moment.connect(partial(self._or_never_ready, step), weak=False)

    def _or_never_ready(self, step: Callable[..., None], **arguments: Any) -> None:
        """Run a step and exit if it fails: Celery only logs a receiver's error, and would consume without a model."""
        try:
            step(**arguments)
        except Exception as error:
            if isinstance(error, VQAError):
                log.critical("%s: %s", type(error).__name__, error)
            else:
                log.critical("starting failed", exc_info=error)
            if isinstance(error, LoadingCrashed):
                # without a report, after which the supervisor would start no other
                raise SystemExit(EXIT_CRASHED) from None
            self._worker.link.report(f"{type(error).__name__}: {error}")
            raise SystemExit(EXIT_NEVER_READY) from None

    def _set_up_logging(self, **_: Any) -> None:
        set_up_logging(self._worker.settings.log_level)

    def _configure(self, sender: str, conf: Any, instance: Any, **_: Any) -> None:
        # Celery asks for it after the model is loaded, and loading has something to say
        self._set_up_logging()
        # its banner is for people
        instance.quiet = instance.quiet or is_json()
        # the last moment at which the size of the pool can be set
        conf.worker_concurrency = self._worker.plan(sender)

    def _load(self, **_: Any) -> None:
        # Celery consumes, answers pings and says "ready" after this returns
        self._worker.link.watch()
        self._worker.load()
        # A full collection looks at every object there is, 75,000 here, while no job's thread runs. What is here now
        # stays until the end; the engine's process does the same with its own.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(_SWITCH_S)

    def _ready(self, **_: Any) -> None:
        worker = self._worker
        worker.start()
        worker.link.report(READY)
        log.info("%s is ready: %s with %d slots", worker.name, worker.engine.model, worker.slots)

    def _drain(self, **_: Any) -> None:
        """Drain for at most VQA_DRAIN_S; at a second signal shut down at once."""
        worker = self._worker
        if self._draining:
            worker.shutdown.begin(0, "second signal to stop")
            return
        self._draining = True
        drain_s = worker.settings.drain_s
        timer = threading.Timer(drain_s, worker.shutdown.begin, [0, "the drain took longer than VQA_DRAIN_S"])
        timer.daemon = True
        timer.start()
        held = 0
        if worker.attempts is not None:
            worker.attempts.draining.set()
            worker.attempts.leases.drain()
            worker.inbox.drain()
            held = len(worker.attempts.leases)
        log.info("draining: %d running jobs have %.0f s to finish", held, drain_s)

    def _end(self, **_: Any) -> None:
        self._worker.stop()
        # Python ends with the default handlers, and a signal would turn this clean exit into a failure
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def make_worker_app(engine_factory: str = FACTORY) -> Celery:
    """Return the app of a worker process. On a wrong setting, print one line and exit.

    `engine_factory` is the `module:function` that makes an engine with a model, in a process of its own.
    """
    protect_output()
    try:
        settings = QueueSettings()
        app = make_app(settings)
        app.conf.worker_consumer = "workers.consumer.events:Consumer"
        app.register_task(AnswerTask())
        Lifecycle(Worker(app, settings, engine_factory)).connect_signals()
    except SettingsError as error:
        SupervisorLink().report(f"SettingsError: {error}")
        print(f"vqa: SettingsError: {error}", file=sys.stderr)
        raise SystemExit(EXIT_NEVER_READY) from None
    return app
