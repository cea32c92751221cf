"""The parts of a worker process, built in three steps: when the app is made, when its slots are planned, on loading."""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import Any

from celery import Celery
from redis.exceptions import RedisError

from vqa.fetch.fetcher import Fetcher
from vqa.fetch.settings import FetchSettings
from vqa.images.store import ImageStore
from vqa.ledger.closing import Closing
from vqa.ledger.ledger import Ledger
from vqa.ledger.models import ModelRegistry
from vqa.log.context import add_process_fields
from vqa.redis.connection import connect
from vqa.redis.error_replies import describe
from vqa.rollout import PROCESS
from vqa.settings import QueueSettings
from workers.cards import card_environment, compute_capability, requested_cards
from workers.consumer.dead_letters import write_dead_letter
from workers.consumer.events import HEARTBEAT
from workers.consumer.remote_control import register_commands
from workers.consumer.rollout import Rollouts
from workers.consumer.transport import install_intake
from workers.engine.base import Engine, HasPlaces, Stall
from workers.engine.detail import ImageTokens
from workers.engine.factory import FACTORY, choose_engine, make_engine
from workers.engine.fair_share import Reserve
from workers.engine.model.generation_config import sampling_defaults
from workers.engine.runtime.heartbeat import Heartbeat
from workers.engine.settings import EngineSettings
from workers.filter.lists import Lists
from workers.filter.settings import FilterSettings
from workers.inbox.accept import Acceptance
from workers.inbox.reader import InboxReader
from workers.inbox.stream import InboxStream
from workers.jobs.answer_cache import AnswerCache, model_identity, remote_identity
from workers.jobs.answer_filter import AnswerFilter
from workers.jobs.answering import Answering
from workers.jobs.attempt import Attempts
from workers.jobs.foreign import ForeignJobs
from workers.jobs.image_source import ImageSource
from workers.jobs.label import Label
from workers.jobs.leases import Leases
from workers.jobs.middleware import AttemptMiddleware
from workers.jobs.recent_answers import RecentAnswers
from workers.jobs.served import Served
from workers.jobs.task_events import TaskEvents
from workers.jobs.text_writer import TextWriter
from workers.log import announce
from workers.media.limits import ImageLimits
from workers.media.pool import DecoderPool
from workers.process.janitor import Janitor
from workers.process.model_queues import consume_models
from workers.process.preconditions import (
    require_open_files,
    require_own_name,
    require_packages,
    require_redis_7,
    wait_for_redis,
)
from workers.process.shutdown import Shutdown
from workers.process.telemetry import Telemetry
from workers.process.watchdog import Watchdog
from workers.settings import WorkerSettings
from workers.slots import parse_slots, plan_slots, slots_for
from workers.supervisor.link import FirstAnswer, SupervisorLink
from workers.tasks import register

log = logging.getLogger(__name__)

#: how long an attempt's calls to Redis are tried again
_RETRY_S = 60

#: interval of the watchdog's checks
_CHECK_S = 0.5

#: calls to a silent Redis that the consumer's thread may make one after the other: it publishes events and a heartbeat,
#: refreshes its bindings, and pings (`workers.consumer.events`)
_SILENT_CALLS = 4


def look_ahead(slots: int) -> int:
    """Return how many jobs a worker holds: more than slots, so that images are decoded while all slots are busy."""
    return slots + max(2, slots // 4)


class Worker:
    """All parts of a worker process."""

    def __init__(self, app: Celery, settings: QueueSettings, engine_factory: str = FACTORY) -> None:
        """Engines with a model are made in their process by `engine_factory`. Raises SettingsError."""
        self._app = app
        self._engine_factory = engine_factory
        self._settings = settings
        self._hasty = settings.model_copy(
            update={"redis_timeout_s": min(settings.redis_timeout_s, settings.lease_s / 3)}
        )
        self._engine_settings = EngineSettings()
        self.settings = WorkerSettings()
        self._fetcher = Fetcher(FetchSettings(), settings.image_max_bytes)
        self._filter_settings = FilterSettings()
        self._lists = Lists(self._filter_settings) if self._filter_settings.paths else None
        self._telemetry = Telemetry(self.settings.metrics)
        self.link = SupervisorLink()
        self._redis = connect(settings, _RETRY_S)
        self.janitor = Janitor(self._redis, app, settings)
        # a connection with short retries: the consumer's thread waits for these calls
        closing = Closing(app, Ledger(connect(settings), settings.limits.unbounded), settings.result_ttl_s)
        self._intake = install_intake(app, partial(write_dead_letter, closing), self.settings.message_max_bytes)
        self.shutdown = Shutdown(self._intake.stop)
        self._rollouts = Rollouts(self.link, self.settings, self._engine_settings)
        self._rollouts.register()
        register_commands(closing, settings.bulk_timeout_s)
        self._consuming = Heartbeat(max(self._engine_settings.hang_s, _SILENT_CALLS * settings.redis_timeout_s))
        setattr(app, HEARTBEAT, self._consuming)
        #: None until the model is loaded
        self.attempts: Attempts | None = None

    def plan(self, name: str) -> int:
        """Choose the engine and the slots of the worker with this node name; return its number of task threads.

        Raises SettingsError, and NotReady if the slots do not fit the card.
        """
        require_packages(self._engine_settings)
        cards = self._cards = requested_cards(self.settings.cards)[0]
        # a supervisor has set this already; without one the worker limits itself to its cards here
        os.environ.update(card_environment(cards))
        slots = parse_slots(self.settings.slots) if self.settings.slots else None
        self._engine_settings, why = choose_engine(self._engine_settings, len(cards), compute_capability(cards))
        plan = plan_slots(self._engine_settings, cards, slots_for(slots, cards))
        announce(f"{self._engine_settings.engine} engine ({why}), {plan}")
        self._sampling = sampling_defaults(self._engine_settings)
        if self._engine_settings.sampling_defaults == "checkpoint":
            announce(f"jobs that do not say how tokens are chosen are answered {self._sampling}")
        self.name, self.slots = name, plan.slots
        add_process_fields(worker=name)
        self._intake.reserve = Reserve.from_settings(self._engine_settings, self.slots)
        self.threads = look_ahead(self.slots)
        require_open_files(self.threads, self.settings.decoders)
        return self.threads

    def load(self) -> None:
        """Load the model and let `vqa.answer` answer with it. Raises NotReady."""
        with connect(self._hasty, retry_s=0) as redis:
            wait_for_redis(redis, self._settings, self.link.waits)
        self._require_own_name(self.settings.drain_s)
        require_redis_7(self._redis)
        self.engine = self.shutdown.engine = self._make_engine()
        self.watchdog = Watchdog(self._stall, self.shutdown.engine_hung, self._send_heartbeat, _CHECK_S)
        self.watchdog.start()
        self.engine.start(self.shutdown.engine_crashed)
        self._hold_no_more_than_the_engine_takes(self.engine)
        served = consume_models(self._app, self._redis, Served.from_settings(self.settings, self.engine.model))
        self.attempts = self.shutdown.attempts = self._make_attempts(self.engine, served)
        self.inbox = self._make_inbox(self.attempts.foreign_jobs)
        register(self._app, self.attempts)

    def start(self) -> None:
        """Start to sweep, to read the inbox and to renew leases. Raises NotReady if another worker has this name."""
        assert self.attempts is not None
        # another one may have been started at the same time
        self._require_own_name(wait_s=0)
        self.attempts.answering.texts.start()
        self.janitor.start()
        self.inbox.start()
        self._telemetry.start()
        # last, as it enters this worker in the list of workers, and who is listed there is ready
        self.attempts.leases.start(on_lost=self.engine.cancel, engine_alive=lambda: not self.watchdog.stalled)

    def stop(self) -> None:
        """Stop all threads, if the model was loaded."""
        if self.attempts is not None:
            self._telemetry.stop()
            self.watchdog.stop()
            self.janitor.stop()
            self.inbox.stop()
            self.attempts.leases.stop()
            self.engine.stop()
            self.attempts.answering.texts.stop()
            self.attempts.answering.images.close()
            self.attempts.answering.media.close()

    def _hold_no_more_than_the_engine_takes(self, engine: Engine) -> None:
        """Leave jobs to other workers while this one's engine has fewer places than slots."""
        if isinstance(engine, HasPlaces):
            self._intake.most_held = lambda: look_ahead(engine.places) if engine.places else 0

    def _make_engine(self) -> Engine:
        if self._engine_settings.engine in {"echo", "remote"}:
            return make_engine(self._engine_settings, self.slots)
        from workers.engine.process.engine import EngineProcess

        return EngineProcess(self._engine_settings, self.slots, self._engine_factory, self.link.fds)

    def _stall(self) -> Stall | None:
        return self.engine.stall() or self._consuming.stall()

    def _require_own_name(self, wait_s: float) -> None:
        try:
            with connect(self._hasty, retry_s=0) as redis:
                require_own_name(redis, self.name, self._settings.lease_s, wait_s)
        except RedisError as error:
            unread = "the list of workers cannot be read, so another one may be named %s: %s"
            log.warning(unread, self.name, describe(error))

    def _send_heartbeat(self) -> None:
        self.link.heartbeat(self.attempts is not None and self.attempts.answering.answered.is_set())

    def _make_attempts(self, engine: Engine, served: Served) -> Attempts:
        settings, own = self._settings, self._engine_settings
        closing = Closing(self._app, Ledger(self._redis, settings.limits.unbounded), settings.result_ttl_s)
        store = ImageStore.open(self._redis, settings.images_url, settings.images_keep_s)
        # separate connections that fail fast: a renewal must not be late, and no job waits for the answer cache
        hasty = self._hasty
        about: dict[str, Any] = {"slots": self.slots, "model": engine.model, "engine": own.engine}
        about[PROCESS] = self._rollouts.process.model_dump()
        tokens = ImageTokens.from_settings(own)
        if engine.fit is not None:
            about["fit"] = tokens.about(engine.fit)
        recent = RecentAnswers()
        words = AnswerFilter(self._lists, self._filter_settings.filter_questions)
        leases = Leases(
            connect(hasty, retry_s=0),
            self.name,
            settings.lease_s,
            about,
            lambda: {"leased": len(leases), **recent.figures(), **words.figures()},
            served,
        )
        texts = TextWriter(connect(hasty, retry_s=0))
        identity = model_identity(own)
        if own.engine == "remote":
            identity = remote_identity(own, engine.model, served.names if served.declared else ())
        cache = AnswerCache(connect(hasty, retry_s=0), identity, self.settings.reuse_ttl_s)
        limits = ImageLimits.from_settings(settings, own.max_image_pixels, engine.fit)
        media = DecoderPool(self.settings.decoders, limits, threads=self.threads)
        announce(str(media.plan))
        first = FirstAnswer(self.link)
        images = ImageSource(store, self._fetcher, settings.image_max_bytes)
        how = (first, tokens, settings.video_max_frames, words.shown, own.cache_salt == "tenant", self._sampling)
        answering = Answering(self.name, images, media, engine, leases, texts, *how)
        # reused answers are counted, labelled and filtered, too
        middleware: list[AttemptMiddleware] = [
            *(TaskEvents(), served, recent, Label(self._filter_settings.label), words, cache)
        ]
        models = ModelRegistry(self._redis, settings.model_keep_s, settings.lease_s, own=served.names)
        foreign_jobs = ForeignJobs(settings, closing, store, models)
        attempts = Attempts(settings, closing, foreign_jobs, answering, leases, middleware, served=served)
        return self._telemetry.observed(attempts, self.name, self.slots, self._cards, words.figures)

    def _make_inbox(self, foreign_jobs: ForeignJobs) -> InboxReader:
        # a connection of its own, since reading waits for new entries; each round is tried again as a whole
        redis = connect(self._settings, retry_s=0)
        stream = InboxStream(redis, self.name, self._settings.result_ttl_s)
        acceptance = Acceptance(redis, foreign_jobs, self.settings.message_max_bytes)
        return InboxReader(stream, acceptance, self._settings.lease_s, self._settings.redis_timeout_s)
