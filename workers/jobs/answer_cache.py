"""The answer cache: the same greedy question of the same tenant to the same model gets the cached answer for a while.

Tenants share nothing: a reused answer would tell one what another has asked.

Two such jobs that run at the same time are both computed; only a finished answer is in the cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError

from vqa.answer import Answer, Timings
from vqa.images.store import reference
from vqa.jobs.job import Job
from vqa.jobs.message import is_url
from vqa.ledger.records import Lease
from vqa.redis.error_replies import describe
from vqa.results import Outcome
from workers.engine.settings import EngineSettings

log = logging.getLogger(__name__)

#: fields that do not change a greedy model's answer, or that it does not see; the tenant is not one. The key has the
#: model that answers, whatever the job calls it
_IGNORED = {
    *("id", "model", "timeout_s", "lane", "retry", "batch", "reuse", "metadata", "version"),
    *("temperature", "top_p", "top_k", "min_p", "seed"),
}

#: hashed from the end of each file. Reading whole weights takes seconds, and other weights differ in every part
_TAIL_BYTES = 64 * 1024


def remote_identity(settings: EngineSettings, model: str, names: Sequence[str]) -> str:
    """Do as `model_identity` for a model of other servers, which may call two models the same.

    What tells them apart is the `names` that were given to the worker.
    """
    return model_identity(settings.model_copy(update={"model": " ".join([model, *sorted(names)])}))


def model_identity(settings: EngineSettings) -> str:
    """Return a key for everything that changes the model's answers; a local folder counts by its content."""
    folder = Path(settings.model)
    model = _hash_folder(folder) if folder.is_dir() else settings.model
    # images and thoughts are cut to what a slot holds, if their job allows it
    bounds = (
        settings.max_image_tokens,
        settings.high_image_tokens,
        settings.slot_tokens,
        settings.max_reasoning_tokens,
    )
    return json.dumps([settings.engine, model, settings.revision, settings.quant, settings.dtype, *bounds])


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as content:
            content.seek(max(0, size - _TAIL_BYTES))
            digest.update(content.read())
    return digest.hexdigest()


class AnswerCache:
    """Middleware that answers jobs from a cache in Redis, if the job allows it (`reuse`) and names no image by URL.

    A Redis error is a cache miss, or leaves an answer uncached; it never fails a job.
    """

    def __init__(self, redis: Redis, model: str, ttl_s: int) -> None:
        """Use a `redis` with short timeouts and a `model_identity`. A `ttl_s` of 0 turns the cache off."""
        self._redis = redis
        self._model = model
        self._ttl_s = ttl_s

    def before(self, job: Job, lease: Lease) -> Answer | None:
        """Return the cached answer with the id, attempt and timings of this job."""
        started = time.monotonic()
        cached = self.get(job)
        if cached is None:
            return None
        header, total_s = lease.header, round(lease.queued_s + time.monotonic() - started, 4)
        timings = Timings(queued_s=lease.queued_s, media_s=0, engine_s=0, total_s=total_s)
        own = {"id": lease.id, "attempt": header.attempt, "last_error": header.error, "timings": timings}
        return cached.model_copy(update={**own, "reused": True})

    def after(self, job: Job, lease: Lease, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Answer):
            self.put(job, outcome)
        return outcome

    def get(self, job: Job) -> Answer | None:
        """Return the answer that an earlier job with the same question got."""
        if not self._takes(job):
            return None
        try:
            cached = self._redis.get(self._key(job))
            return None if cached is None else Answer.model_validate_json(cached)
        except RedisError as error:
            log.warning("answer cache: lookup failed, the job is computed: %s", describe(error))
        except ValidationError:
            log.warning("answer cache: a cached answer cannot be read, the job is computed")
        return None

    def put(self, job: Job, answer: Answer) -> None:
        """Cache an answer, if the job allows it."""
        if not self._takes(job):
            return
        try:
            self._redis.set(self._key(job), answer.model_dump_json(exclude_none=True), ex=self._ttl_s)
        except RedisError as error:
            log.warning("answer cache: an answer is not cached: %s", describe(error))

    def _takes(self, job: Job) -> bool:
        # what a URL leads to may change, and is not known before it is fetched
        fixed = not any(isinstance(each, str) and is_url(each) for each in job.contents())
        return job.reuse and bool(self._ttl_s) and fixed

    def _key(self, job: Job) -> str:
        contents = {each: reference(each) for each in job.contents() if isinstance(each, bytes)}
        question = job.with_images(contents).model_dump(mode="json", exclude=_IGNORED, exclude_none=True)
        # keys are not sorted: the order of a schema's properties is the order in the answer
        canonical = json.dumps([self._model, question], separators=(",", ":"))
        return f"vqa:reuse:{hashlib.sha256(canonical.encode()).hexdigest()}"
