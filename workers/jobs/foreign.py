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
from vqa.message import is_url
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
        body = foreign.body
        try:
            job, timeout_s = self.read({**body, "id": id, "lane": lane} if isinstance(body, Mapping) else body)
        except VQAError as error:
            self.refuse(id, body, lane, error)
            raise
        self.closing.ledger.accept(id, lane, job.to_json(), timeout_s, tenant=job.tenant, batch=job.batch)

    def read(self, fields: Any) -> tuple[Job, float]:
        """Return the job, with defaults and with its images in the image store, and its timeout. Raises VQAError."""
        job = self.settings.resolved(Job.from_json(fields))
        images = list(job.contents())
        contents = [image for image in images if isinstance(image, bytes)]
        timeout_s = self.settings.job_timeout_s(job)
        # what a URL leads to is fetched by the attempt, and never stored
        self.store.extend([each for each in images if isinstance(each, str) and not is_url(each)], timeout_s)
        return job.with_images(self.store.put_many(contents, timeout_s)), timeout_s

    def refuse(self, id: str, body: object, lane: Lane, error: VQAError, reply: str = "") -> None:
        """End a job that is not accepted with this error, unless its id is known; push its id on its reply list."""
        # a job of a newer version is kept whole: after an upgrade it can be retried by hand
        newer = isinstance(error, UnsupportedVersion)
        payload = json.dumps(body, default=str).encode() if newer else b""
        if self.closing.ledger.accept(id, lane, payload, self.settings.timeout_s(lane), reply) == "accepted":
            self.closing.close(id, error, UNSUPPORTED if newer else "")
