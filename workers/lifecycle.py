"""A worker process, start to end: slots before the pool, the model before "ready", a bounded drain, a loud crash."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from typing import Any, NoReturn

from celery import Celery, signals
from celery.worker import state
from redis.exceptions import RedisError

from vqa.celery import make_app
from vqa.connection import connect
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
from workers.media import Media
from workers.settings import WorkerSettings
from workers.slots import parse_slots, plan_slots, slots_of
from workers.supervisor_link import READY, SupervisorLink
from workers.tasks import AnswerTask, register

log = logging.getLogger(__name__)

#: exit status of a worker that would fail the same way again (sysexits.h: EX_CONFIG)
EXIT_NEVER_READY = 78
#: exit status of a worker whose engine crashed (sysexits.h: EX_SOFTWARE)
EXIT_CRASHED = 70

#: a call to Redis is tried for about a minute before the attempt is given up
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
        self._crashed = threading.Event()
        self._redis = connect(settings, _PATIENCE)

    def connect_signals(self) -> None:
        """Let Celery call us."""
        for signal, handler in (
            (signals.setup_logging, self._set_up_logging),
            (signals.celeryd_init, self._configure),
            (signals.worker_init, self._load),
            (signals.worker_ready, self._ready),
            (signals.worker_shutting_down, self._drain),
            (signals.worker_shutdown, self._end),
        ):
            signal.connect(handler, weak=False)

    def _set_up_logging(self, **_: Any) -> None:
        set_up_logging(self._worker_settings.log_level)

    def _configure(self, sender: str, conf: Any, **_: Any) -> None:
        """The pool's size is fixed from here on: threads for the slots, and a few that decode the next pictures."""
        self._name = sender
        slots = parse_slots(self._worker_settings.slots) if self._worker_settings.slots else None
        try:
            card = wanted_cards(self._worker_settings.cards)[0]
            plan = plan_slots(self._engine_settings, card, slots_of(slots, card))
        except VQAError as error:
            self._never_ready(error)
        print(plan, flush=True)
        self._slots = plan.slots
        conf.worker_concurrency = self._slots + max(2, self._slots // 4)

    def _load(self, **_: Any) -> None:
        """Celery waits for this before it consumes, answers pings or says "ready"."""
        self._link.watch()
        self._engine = make_engine(self._engine_settings, self._slots)
        try:
            self._engine.start(self._on_crash)
            self._require_redis_7()
        except VQAError as error:
            self._never_ready(error)
        about = {"slots": self._slots, "model": self._engine.model, "engine": self._engine_settings.engine}
        self._leases = Leases(self._redis, self._name, self._settings.lease_s, about)
        self._attempts = Attempts(
            worker=self._name,
            settings=self._settings,
            app=self._app,
            ledger=Ledger(self._redis),
            store=ImageStore(self._redis),
            media=self._media(),
            engine=self._engine,
            leases=self._leases,
            crashed=self._crashed,
        )
        register(self._app, self._attempts)
        self._janitor = Janitor(self._redis, self._app, self._settings)

    def _media(self) -> Media:
        return Media(
            self._worker_settings.media_threads,
            self._settings.image_max_bytes,
            self._settings.image_max_pixels,
            self._engine_settings.max_image_pixels,
        )

    def _require_redis_7(self) -> None:
        try:
            version = str(self._redis.info("server")["redis_version"])
        except RedisError as error:
            log.warning("Redis does not answer yet (%s); Celery goes on trying", type(error).__name__)
            return
        if int(version.partition(".")[0]) < 7:
            raise NotReady(f"Redis 7.0 or later is needed, VQA_REDIS_URL leads to {version}")

    def _ready(self, **_: Any) -> None:
        self._leases.start(on_lost=self._engine.cancel)
        self._janitor.start()
        self._link.say(READY)
        log.info("%s is ready: %s with %d slots", self._name, self._engine.model, self._slots)

    def _drain(self, **_: Any) -> None:
        log.info("stopping: %d jobs to finish, for at most %.0f s", self._held(), self._worker_settings.drain_s)
        self._exit_after(self._worker_settings.drain_s, 0)

    def _exit_after(self, grace_s: float, status: int) -> None:
        """Celery takes no more and waits for what is held; not for longer than this."""
        timer = threading.Timer(grace_s, self._give_back_and_exit, [status])
        timer.daemon = True
        timer.start()

    def _held(self) -> int:
        return len(self._leases.held()) if hasattr(self, "_leases") else 0

    def _end(self, **_: Any) -> None:
        if hasattr(self, "_leases"):
            self._janitor.stop()
            self._leases.stop()
            self._engine.stop()
            self._attempts.media.close()

    def _on_crash(self, error: BaseException) -> None:
        """From the engine's thread. The jobs' own threads hand them on; then the supervisor starts a fresh process."""
        self._crashed.set()
        log.critical("the engine crashed, this worker ends", exc_info=error)
        self._exit_after(_HAND_ON_S, EXIT_CRASHED)
        # as on SIGTERM: the consumer stops first, so nothing that is handed on is popped here and lost with us
        state.should_stop = EXIT_CRASHED

    def _give_back_and_exit(self, status: int) -> NoReturn:
        for lease in self._leases.held() if hasattr(self, "_leases") else []:
            try:
                self._attempts.give_back(lease)
            except RedisError as error:
                log.warning("job %s could not be given back: %s", lease.id, type(error).__name__)
        if hasattr(self, "_leases"):
            self._leases.stop()
        sys.stderr.flush()
        # threads may be stuck in the model: an ordinary exit would wait for them
        os._exit(status)

    def _never_ready(self, error: VQAError) -> NoReturn:
        log.critical("%s: %s", type(error).__name__, error)
        self._link.say(f"{type(error).__name__}: {error}")
        raise SystemExit(EXIT_NEVER_READY)


def set_up_logging(level: str) -> None:
    """One line an event, on standard error."""
    logging.basicConfig(level=level, format=f"%(asctime)s %(levelname)s {socket.gethostname()} %(name)s: %(message)s")


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
