"""Foreign jobs: sent by another Celery app in the body of its message, and not in the ledger yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vqa.errors import UnsupportedVersion, VQAError
from vqa.images.store import ImageStore
from vqa.jobs.job import Job
from vqa.jobs.lane import Lane
from vqa.jobs.message import is_url
from vqa.ledger.closing import Closing
from vqa.ledger.models import ModelRegistry
from vqa.routing import queue_name
from vqa.settings import QueueSettings

#: reason of the dead letter of a job that a newer vqa wrote
UNSUPPORTED = "unsupported_version"


@dataclass(frozen=True)
class ForeignJob:
    """The body of another app's message: a job, if it is valid."""

    body: object
    #: the model whose queue it came from
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ReadJob:
    """A valid job, whose images are in the image store."""

    job: Job
    timeout_s: float
    #: the model that it goes to; None for whichever worker takes it
    model: str | None


@dataclass(frozen=True)
class ForeignJobs:
    """Accepts foreign jobs into the ledger; one instance per process, shared by its threads."""

    settings: QueueSettings
    closing: Closing
    store: ImageStore
    models: ModelRegistry

    def accept(self, id: str, foreign: ForeignJob, lane: Lane) -> str:
        """Accept the job under its message's id; return its queue. If it is invalid, close it and raise its VQAError.

        A job that names no model belongs to the one whose queue it came from.
        """
        body = foreign.body
        try:
            found = self.read(_whole(body, id, lane, foreign.model) if isinstance(body, Mapping) else body)
        except VQAError as error:
            self.refuse(id, body, lane, error)
            raise
        job, accept = found.job, self.closing.ledger.accept
        content = (job.to_json(), found.timeout_s)
        accept(id, lane, *content, tenant=job.tenant, batch=job.batch, model=found.model, named=job.model)
        return queue_name(lane, found.model)

    def read(self, fields: Any) -> ReadJob:
        """Return the job, with defaults and with its images in the image store. Raises VQAError."""
        job = self.settings.resolved(Job.from_json(fields))
        model = self.models.route([job]).get(job.id)
        images = list(job.contents())
        contents = [image for image in images if isinstance(image, bytes)]
        timeout_s = self.settings.job_timeout_s(job)
        # what a URL leads to is fetched by the attempt, and never stored
        self.store.extend([each for each in images if isinstance(each, str) and not is_url(each)], timeout_s)
        return ReadJob(job.with_images(self.store.put_many(contents, timeout_s)), timeout_s, model)

    def refuse(self, id: str, body: object, lane: Lane, error: VQAError, reply: str = "") -> None:
        """End a job that is not accepted with this error, unless its id is known; push its id on its reply list."""
        # a job of a newer version is kept whole: after an upgrade it can be retried by hand
        newer = isinstance(error, UnsupportedVersion)
        payload = json.dumps(body, default=str).encode() if newer else b""
        if self.closing.ledger.accept(id, lane, payload, self.settings.timeout_s(lane), reply) == "accepted":
            self.closing.close(id, error, UNSUPPORTED if newer else "")


def _whole(body: Mapping[str, Any], id: str, lane: Lane, model: str | None) -> dict[str, Any]:
    named = body.get("model")
    return {**body, "id": id, "lane": lane} | ({"model": model} if named is None else {})
