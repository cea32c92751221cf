"""A worker process, start to end: slots before the pool, the model before "ready", a bounded drain, a loud crash."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from celery import Celery, signals
from redis.exceptions import RedisError

from vqa.celery import make_app
from vqa.connection import connect
from vqa.errors import NotReady, SettingsError, VQAError
from vqa.ledger.closing import Closing
from vqa.ledger.ledger import Ledger
from vqa.settings import QueueSettings
from workers.cards import capability, pinned, wanted_cards
from workers.consumer import remote_control as control
from workers.consumer.intake import SetAside
from workers.consumer.transport import guard
from workers.engine.base import Stall
from workers.engine.factory import chosen, make_engine
from workers.engine.fair_share import Reserve
from workers.engine.settings import EngineSettings
from workers.jobs.attempt import Attempts
from workers.log import set_up_logging
from workers.process.assembly import assemble
from workers.process.janitor import Janitor
from workers.process.shutdown import Departure
from workers.process.watchdog import Watchdog
from workers.settings import WorkerSettings
from workers.slots import parse_slots, plan_slots, slots_of
from workers.supervisor.link import EXIT_CRASHED, EXIT_HUNG, EXIT_NEVER_READY, READY, SupervisorLink
from workers.tasks import AnswerTask, register

log = logging.getLogger(__name__)

#: a call to Redis that is refused is tried for about a minute before the attempt is given up
_PATIENCE = 60

#: between two looks at the engine
_LOOK_S = 0.5


class WorkerProcess:
    """What Celery's signals call, in the order in which they come."""

    def __init__(self, app: Celery, settings: QueueSettings) -> None:
        self._app = app
        self._settings = settings
        self._worker_settings = WorkerSettings()
        self._engine_settings = EngineSettings()
        self._link = SupervisorLink()
        self._redis = connect(settings, _PATIENCE)
        self._janitor = Janitor(self._redis, app, settings)
        # the consumer's thread waits for it, and has no minute to spare
        aside = SetAside(Closing(app, Ledger(connect(settings), settings.limits.unbounded), settings.result_ttl_s))
        self._intake = guard(app, aside)
        self._departure = Departure(self._intake.stop)
        control.register(control.Cancelling.of(app, settings))
        self._draining = False
        #: None until the model is loaded
        self._attempts: Attempts | None = None

    def connect_signals(self) -> None:
        """Let Celery call us."""
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
        """Celery logs what a signal's receiver raises and goes on: it would consume without a model."""
        try:
            step(**arguments)
        except Exception as error:
            if isinstance(error, VQAError):
                log.critical("%s: %s", type(error).__name__, error)
            else:
                log.critical("starting failed", exc_info=error)
            self._link.say(f"{type(error).__name__}: {error}")
            raise SystemExit(EXIT_NEVER_READY) from None

    def _set_up_logging(self, **_: Any) -> None:
        set_up_logging(self._worker_settings.log_level)

    def _configure(self, sender: str, conf: Any, **_: Any) -> None:
        """The pool's size is fixed from here on: threads for the slots, and a few that decode the next images."""
        self._name = sender
        cards = wanted_cards(self._worker_settings.cards)[0]
        # without a supervisor nobody has; the model is spread over all that CUDA shows
        os.environ.update(pinned(cards))
        slots = parse_slots(self._worker_settings.slots) if self._worker_settings.slots else None
        self._engine_settings, why = chosen(self._engine_settings, len(cards), capability(cards))
        plan = plan_slots(self._engine_settings, cards, slots_of(slots, cards))
        print(f"{self._engine_settings.engine} engine ({why}), {plan}", flush=True)
        self._slots = plan.slots
        self._intake.reserve = Reserve.of(self._engine_settings, self._slots)
        conf.worker_concurrency = self._slots + max(2, self._slots // 4)

    def _load(self, **_: Any) -> None:
        """Celery waits for this before it consumes, answers pings or says "ready"."""
        self._link.watch()
        engine = make_engine(self._engine_settings, self._slots)
        self._watchdog = Watchdog(engine.stall, self._on_stall, self._look, _LOOK_S)
        self._watchdog.start()
        engine.start(self._on_crash)
        self._require_redis_7()
        attempts = assemble(
            self._app, self._redis, self._settings, engine, self._engine_settings, self._name, self._slots
        )
        self._attempts = self._departure.attempts = attempts
        register(self._app, attempts)

    def _require_redis_7(self) -> None:
        try:
            version = str(self._redis.info("server")["redis_version"])
        except RedisError as error:
            log.warning("Redis does not answer yet (%s); Celery goes on trying", type(error).__name__)
            return
        if int(version.partition(".")[0]) < 7:
            raise NotReady(f"Redis 7.0 or later is needed, VQA_REDIS_URL leads to {version}")

    def _ready(self, **_: Any) -> None:
        assert self._attempts is not None
        engine = self._attempts.answering.engine
        self._attempts.leases.start(on_lost=engine.cancel, beats=lambda: not self._watchdog.stalled)
        self._janitor.start()
        self._link.say(READY)
        log.info("%s is ready: %s with %d slots", self._name, engine.model, self._slots)

    def _drain(self, **_: Any) -> None:
        """On the first signal; a second one does not wait."""
        if self._draining:
            self._departure.begin(0, "asked a second time to stop")
            return
        self._draining = True
        grace_s = self._worker_settings.drain_s
        timer = threading.Timer(grace_s, self._departure.begin, [0, "the time to drain (VQA_DRAIN_S) is over"])
        timer.daemon = True
        timer.start()
        held = 0
        if self._attempts is not None:
            self._attempts.draining.set()
            held = len(self._attempts.leases)
        log.info("stopping: %d jobs to finish, for at most %.0f s", held, grace_s)

    def _end(self, **_: Any) -> None:
        if self._attempts is not None:
            self._watchdog.stop()
            self._janitor.stop()
            self._attempts.leases.stop()
            self._attempts.answering.engine.stop()
            self._attempts.answering.media.close()
        # Python ends with the default handlers: a signal that comes now has nothing to give back, and is no failure
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def _look(self) -> None:
        """From the watchdog's thread, each time it looks."""
        self._link.alive(self._attempts is not None and self._attempts.answering.answered.is_set())

    def _on_crash(self, error: BaseException, ids: Collection[str]) -> None:
        """From the engine's thread."""
        log.critical("the engine crashed, this worker ends", exc_info=error)
        self._departure.begin(EXIT_CRASHED, f"the engine crashed ({type(error).__name__})", ids)

    def _on_stall(self, stall: Stall) -> None:
        """From the watchdog's thread."""
        log.critical(
            "the engine hangs, this worker ends: no sign of life for %.0f s in %s", stall.silent_s, stall.phase
        )
        self._departure.begin(EXIT_HUNG, f"the engine hung in {stall.phase}", stall.ids)


def make_worker_app() -> Celery:
    """The app of a worker process. A wrong setting ends the process with one line."""
    try:
        settings = QueueSettings()
        app = make_app(settings)
        app.conf.worker_consumer = "workers.consumer.events:Consumer"
        app.register_task(AnswerTask())
        WorkerProcess(app, settings).connect_signals()
    except SettingsError as error:
        SupervisorLink().say(f"SettingsError: {error}")
        print(f"vqa: SettingsError: {error}", file=sys.stderr)
        raise SystemExit(EXIT_NEVER_READY) from None
    return app
