"""A job that another Celery app sent in its own message becomes one of the ledger's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vqa.errors import UnsupportedVersion, VQAError
from vqa.image_store import ImageStore
from vqa.job import Job, Lane
from vqa.ledger.closing import Closing
from vqa.settings import QueueSettings

#: reason of a dead letter that a newer vqa wrote
UNSUPPORTED = "unsupported_version"


@dataclass(frozen=True)
class Foreign:
    """What another Celery app put into its message: a job, it may be."""

    body: object


@dataclass(frozen=True)
class Adoption:
    """What it takes to adopt; one instance a process, used by all of its threads."""

    settings: QueueSettings
    closing: Closing
    store: ImageStore

    def adopt(self, id: str, foreign: Foreign, lane: Lane) -> None:
        """Accept the job. Raises the VQAError with which it was closed where it is none."""
        try:
            job, timeout_s = self._job(id, foreign.body, lane)
        except VQAError as error:
            self._refuse(id, foreign.body, lane, error)
            raise
        self.closing.ledger.accept(id, lane, job.to_json(), timeout_s, tenant=job.tenant, batch=job.batch)

    def _job(self, id: str, body: object, lane: Lane) -> tuple[Job, float]:
        fields: Any = {**body, "id": id, "lane": lane} if isinstance(body, Mapping) else body
        job = self.settings.resolved(Job.from_json(fields))
        contents = [part.image for part in job.images() if isinstance(part.image, bytes)]
        timeout_s = job.timeout_s or self.settings.timeout_s(lane)
        return job.with_images(self.store.put_many(contents, timeout_s)), timeout_s

    def _refuse(self, id: str, body: object, lane: Lane, error: VQAError) -> None:
        # after an upgrade it can be read, and retried by hand
        newer = isinstance(error, UnsupportedVersion)
        payload = json.dumps(body, default=str).encode() if newer else b""
        if self.closing.ledger.accept(id, lane, payload, self.settings.timeout_s(lane)) == "accepted":
            self.closing.close(id, error, UNSUPPORTED if newer else "")
