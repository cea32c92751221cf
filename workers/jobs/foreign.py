"""Foreign jobs: sent by another Celery app in the body of its message, and not in the ledger yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vqa.errors import UnsupportedVersion, VQAError
from vqa.images.store import ImageStore
from vqa.job import Job, Lane
from vqa.ledger.closing import Closing
from vqa.settings import QueueSettings

#: reason of the dead letter of a job that a newer vqa wrote
UNSUPPORTED = "unsupported_version"


@dataclass(frozen=True)
class ForeignJob:
    """The body of another app's message: a job, if it is valid."""

    body: object


@dataclass(frozen=True)
class ForeignJobs:
    """Accepts foreign jobs into the ledger; one instance per process, shared by its threads."""

    settings: QueueSettings
    closing: Closing
    store: ImageStore

    def accept(self, id: str, foreign: ForeignJob, lane: Lane) -> None:
        """Accept the job under its message's id. If it is invalid, close it with a VQAError and raise that."""
        try:
            job, timeout_s = self._parse(id, foreign.body, lane)
        except VQAError as error:
            self._close_invalid(id, foreign.body, lane, error)
            raise
        self.closing.ledger.accept(id, lane, job.to_json(), timeout_s, tenant=job.tenant, batch=job.batch)

    def _parse(self, id: str, body: object, lane: Lane) -> tuple[Job, float]:
        """Return the job, with its images moved to the image store, and its timeout."""
        fields: Any = {**body, "id": id, "lane": lane} if isinstance(body, Mapping) else body
        job = self.settings.resolved(Job.from_json(fields))
        contents = [part.image for part in job.images() if isinstance(part.image, bytes)]
        timeout_s = job.timeout_s or self.settings.timeout_s(lane)
        return job.with_images(self.store.put_many(contents, timeout_s)), timeout_s

    def _close_invalid(self, id: str, body: object, lane: Lane, error: VQAError) -> None:
        # a job of a newer version is kept whole: after an upgrade it can be retried by hand
        newer = isinstance(error, UnsupportedVersion)
        payload = json.dumps(body, default=str).encode() if newer else b""
        if self.closing.ledger.accept(id, lane, payload, self.settings.timeout_s(lane)) == "accepted":
            self.closing.close(id, error, UNSUPPORTED if newer else "")
