"""Answers that are given again: the same greedy question to the same model, for a while.

Two that are asked at the same time are both computed; only an answer that is there is given again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError

from vqa.answer import Answer
from vqa.image_store import reference
from vqa.job import Job
from workers.engine.settings import EngineSettings

log = logging.getLogger(__name__)

#: what does not change what a greedy model says, or is not shown to it
_NOT_ASKED = {
    *("id", "timeout_s", "lane", "retry", "tenant", "batch", "reuse", "metadata", "version"),
    *("temperature", "top_p", "seed"),
}

#: of a file of weights: other weights differ everywhere, and a whole file takes seconds to read
_TAIL_BYTES = 64 * 1024


def reuse_key(digest: str) -> str:
    """Where the answer to the question of that digest is kept."""
    return f"vqa:reuse:{digest}"


def identity(settings: EngineSettings) -> str:
    """What tells this model from others, for as far as its answers go; of a local folder its content."""
    parts = [
        settings.engine,
        settings.model,
        settings.revision,
        settings.quant,
        settings.dtype,
        settings.max_image_tokens,
    ]
    folder = Path(settings.model)
    if folder.is_dir():
        parts[1] = _content(folder)
    return json.dumps(parts)


def _content(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as content:
            content.seek(max(0, size - _TAIL_BYTES))
            digest.update(content.read())
    return digest.hexdigest()


class Reuse:
    """Redis in trouble means that an answer is not found or not kept; never that a job fails or waits for it."""

    def __init__(self, redis: Redis, model: str, ttl_s: int) -> None:
        """`redis` gives up soon; `model` is its identity. With a `ttl_s` of 0 nothing is kept or found."""
        self._redis = redis
        self._model = model
        self._ttl_s = ttl_s

    def find(self, job: Job) -> Answer | None:
        """The answer that the same question got before, as it was given then."""
        if not job.reuse or not self._ttl_s:
            return None
        try:
            found = self._redis.get(self._key(job))
            return None if found is None else Answer.model_validate_json(found)
        except RedisError as error:
            log.warning("no answer can be looked up to be given again: %s", type(error).__name__)
        except ValidationError:
            log.warning("an answer that was kept to be given again cannot be read")
        return None

    def keep(self, job: Job, answer: Answer) -> None:
        """Keep it for who asks the same, where the job allows it."""
        if not job.reuse or not self._ttl_s:
            return
        try:
            self._redis.set(self._key(job), answer.model_dump_json(exclude_none=True), ex=self._ttl_s)
        except RedisError as error:
            log.warning("no answer can be kept to be given again: %s", type(error).__name__)

    def _key(self, job: Job) -> str:
        contents = {part.image: reference(part.image) for part in job.images() if isinstance(part.image, bytes)}
        asked = job.with_images(contents).model_dump(mode="json", exclude=_NOT_ASKED, exclude_none=True)
        # not sorted: the order of a schema's properties is the answer's
        canonical = json.dumps([self._model, asked], separators=(",", ":"))
        return reuse_key(hashlib.sha256(canonical.encode()).hexdigest())
