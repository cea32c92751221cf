"""What answers jobs in this process, put together once the model is loaded."""

from __future__ import annotations

import threading

from celery import Celery
from redis import Redis

from vqa.connection import connect
from vqa.image_store import ImageStore
from vqa.ledger.closing import Closing
from vqa.ledger.ledger import Ledger
from vqa.settings import QueueSettings
from workers.engine.base import Engine
from workers.engine.settings import EngineSettings
from workers.jobs.answer_cache import Reuse, identity
from workers.jobs.answering import Answering
from workers.jobs.attempt import Attempts
from workers.jobs.exclusive import Company
from workers.jobs.foreign import Adoption
from workers.jobs.leases import Leases
from workers.media.pool import Media
from workers.settings import WorkerSettings


def assemble(
    app: Celery,
    redis: Redis,
    settings: QueueSettings,
    engine: Engine,
    engine_settings: EngineSettings,
    worker: str,
    slots: int,
) -> Attempts:
    """The attempts of the worker of that node name, with this engine, which has started."""
    ledger = Ledger(redis, settings.limits.unbounded)
    closing = Closing(app, ledger, settings.result_ttl_s)
    store = ImageStore(redis)
    about = {"slots": slots, "model": engine.model, "engine": engine_settings.engine}
    # connections of their own, which give up in time for the next try: renewals are what may not be late, and
    # no job is to wait for an answer that might be given again
    hasty = settings.model_copy(update={"redis_timeout_s": min(settings.redis_timeout_s, settings.lease_s / 3)})
    leases = Leases(connect(hasty, patience=0), worker, settings.lease_s, about)
    worker_settings = WorkerSettings()
    reuse = Reuse(connect(hasty, patience=0), identity(engine_settings), worker_settings.reuse_ttl_s)
    media = Media(
        worker_settings.decoders,
        settings.image_max_bytes,
        settings.image_max_pixels,
        engine_settings.max_image_pixels,
        engine.fit,
    )
    return Attempts(
        worker=worker,
        settings=settings,
        app=app,
        ledger=ledger,
        closing=closing,
        adoption=Adoption(settings, closing, store),
        answering=Answering(worker, store, media, engine, leases, reuse),
        leases=leases,
        company=Company(),
        leaving=threading.Event(),
        draining=threading.Event(),
    )
