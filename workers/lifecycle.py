"""A worker process, start to end: slots before the pool, the model before "ready", a bounded drain, a loud crash."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from celery import Celery, signals
from celery.worker import state
from redis.exceptions import RedisError

from vqa.celery import make_app
from vqa.connection import UNREACHED, connect
from vqa.errors import NotReady, SettingsError, VQAError
from vqa.ledger import Ledger
from vqa.settings import QueueSettings
from vqa.store import ImageStore
from workers.attempt import Attempts
from workers.cards import wanted_cards
from workers.engine.catalog import make_engine
from workers.engine.settings import EngineSettings
from workers.janitor import Janitor
from workers.lease import Leases
from workers.log import set_up_logging
from workers.media import Media
from workers.settings import WorkerSettings
from workers.slots import parse_slots, plan_slots, slots_of
from workers.supervisor_link import EXIT_NEVER_READY, READY, SupervisorLink
from workers.tasks import AnswerTask, register

log = logging.getLogger(__name__)

#: exit status of a worker whose engine crashed (sysexits.h: EX_SOFTWARE)
EXIT_CRASHED = 70

#: a call to Redis that is refused is tried for about a minute before the attempt is given up
_PATIENCE = 60

#: a crashed worker's threads have so long to hand their jobs on
_HAND_ON_S = 5.0


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
        #: None until the model is loaded
        self._attempts: Attempts | None = None

    def connect_signals(self) -> None:
        """Let Celery call us."""
        signals.setup_logging.connect(self._set_up_logging, weak=False)
        signals.worker_shutting_down.connect(self._drain, weak=False)
        signals.worker_shutdown.connect(self._end, weak=False)
        for signal, step in (
            (signals.celeryd_init, self._configure),
            (signals.worker_init, self._load),
            (signals.worker_ready, self._ready),
        ):
            signal.connect(partial(self._or_never_ready, step), weak=False)

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
        """The pool's size is fixed from here on: threads for the slots, and a few that decode the next pictures."""
        self._name = sender
        card = wanted_cards(self._worker_settings.cards)[0]
        slots = parse_slots(self._worker_settings.slots) if self._worker_settings.slots else None
        plan = plan_slots(self._engine_settings, card, slots_of(slots, card))
        print(plan, flush=True)
        self._slots = plan.slots
        conf.worker_concurrency = self._slots + max(2, self._slots // 4)

    def _load(self, **_: Any) -> None:
        """Celery waits for this before it consumes, answers pings or says "ready"."""
        self._link.watch()
        engine = make_engine(self._engine_settings, self._slots)
        engine.start(self._on_crash)
        self._require_redis_7()
        about = {"slots": self._slots, "model": engine.model, "engine": self._engine_settings.engine}
        lease_s = self._settings.lease_s
        # a connection of their own, which gives up in time for the next try: renewals are what may not be late
        hasty = self._settings.model_copy(update={"redis_timeout_s": min(self._settings.redis_timeout_s, lease_s / 3)})
        self._attempts = Attempts(
            worker=self._name,
            settings=self._settings,
            app=self._app,
            ledger=Ledger(self._redis),
            store=ImageStore(self._redis),
            media=Media(
                self._worker_settings.media_threads,
                self._settings.image_max_bytes,
                self._settings.image_max_pixels,
                self._engine_settings.max_image_pixels,
            ),
            engine=engine,
            leases=Leases(connect(hasty, patience=0), self._name, lease_s, about),
            crashed=threading.Event(),
        )
        register(self._app, self._attempts)

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
        self._attempts.leases.start(on_lost=self._attempts.engine.cancel)
        self._janitor.start()
        self._link.say(READY)
        log.info("%s is ready: %s with %d slots", self._name, self._attempts.engine.model, self._slots)

    def _drain(self, **_: Any) -> None:
        held = len(self._attempts.leases.held()) if self._attempts else 0
        log.info("stopping: %d jobs to finish, for at most %.0f s", held, self._worker_settings.drain_s)
        self._exit_after(self._worker_settings.drain_s, 0)

    def _exit_after(self, grace_s: float, status: int) -> None:
        """Celery takes no more and waits for what is held; not for longer than this."""
        timer = threading.Timer(grace_s, self._give_back_and_exit, [status])
        timer.daemon = True
        timer.start()

    def _end(self, **_: Any) -> None:
        if self._attempts is not None:
            self._janitor.stop()
            self._attempts.leases.stop()
            self._attempts.engine.stop()
            self._attempts.media.close()

    def _on_crash(self, error: BaseException) -> None:
        """From the engine's thread. The jobs' own threads hand them on; then the supervisor starts a fresh process."""
        log.critical("the engine crashed, this worker ends", exc_info=error)
        if self._attempts is not None:
            self._attempts.crashed.set()
        self._exit_after(_HAND_ON_S, EXIT_CRASHED)
        # as on SIGTERM: the consumer stops first, so nothing that is handed on is popped here and lost with us
        state.should_stop = EXIT_CRASHED

    def _give_back_and_exit(self, status: int) -> NoReturn:
        try:
            if self._attempts is not None:
                self._give_back(self._attempts)
            sys.stderr.flush()
        finally:
            # threads may be stuck in the model: an ordinary exit would wait for them
            os._exit(status)

    def _give_back(self, attempts: Attempts) -> None:
        for lease in attempts.leases.held():
            try:
                attempts.give_back(lease)
            except UNREACHED as error:
                log.warning("job %s could not be given back: %s", lease.id, type(error).__name__)
        attempts.leases.stop()


def make_worker_app() -> Celery:
    """The app of a worker process. A wrong setting ends the process with one line."""
    try:
        settings = QueueSettings()
        app = make_app(settings)
        app.register_task(AnswerTask())
        WorkerProcess(app, settings).connect_signals()
    except SettingsError as error:
        SupervisorLink().say(f"SettingsError: {error}")
        print(f"vqa: SettingsError: {error}", file=sys.stderr)
        raise SystemExit(EXIT_NEVER_READY) from None
    return app
