"""Which models' jobs a worker takes, and the name of the model in its answers."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, Self

from vqa.answer import Answer
from vqa.celery import DEFAULT_QUEUE
from vqa.errors import ModelNotFound, NotReady
from vqa.jobs.job import Job
from vqa.jobs.lane import LANES
from vqa.ledger.records import Lease
from vqa.results import Outcome
from vqa.routing import MODEL_CHARACTERS, is_model_name, queue_name
from workers.settings import WorkerSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """Middleware, too: an answer names its model as the job did, else by the first name that the worker was given."""

    #: names that jobs may ask for
    names: tuple[str, ...] = ()
    #: whether they were given to the worker (VQA_SERVED_NAME); else they are what it has loaded
    declared: bool = False
    #: whether it takes jobs that name no model
    takes_unnamed: bool = True

    @classmethod
    def from_settings(cls, settings: WorkerSettings, loaded: str) -> Self:
        """Return the names of VQA_SERVED_NAME, or that of the loaded model if jobs can name it."""
        names, takes_unnamed = settings.served_names, settings.unnamed_jobs
        if not names and not is_model_name(loaded):
            said = "jobs cannot name this worker's model, whose name is not %s; VQA_SERVED_NAME gives it another"
            log.warning(said, MODEL_CHARACTERS)
            return cls(takes_unnamed=takes_unnamed)
        return cls(names or (loaded,), bool(names), takes_unnamed)

    def queues(self) -> list[str]:
        """Return Celery's lists that the worker pops besides those of jobs that name no model."""
        return [queue_name(lane, name) for name in self.names for lane in LANES]

    def without_queues(self) -> Self:
        """Return what is left where Redis's access list forbids these queues. Raises NotReady if names were given."""
        said = f"Redis's access list forbids {self.queues()[0]}, see deploy/redis-users.conf"
        if self.declared:
            raise NotReady(f"{said}; jobs that name a model of VQA_SERVED_NAME could not be taken")
        log.warning("%s: jobs cannot name this worker's model", said)
        return replace(self, names=())

    def left_queues(self) -> list[str]:
        """Return the lists that it leaves to others."""
        return [] if self.takes_unnamed else [*LANES, DEFAULT_QUEUE]

    def takes(self, model: str | None) -> bool:
        """Return whether jobs of this model, or with None those that name none, are this worker's."""
        return self.takes_unnamed if model is None else model in self.names

    def about(self) -> dict[str, Any]:
        """Return what the list of workers says of it."""
        about: dict[str, Any] = {"models": list(self.names)} if self.names else {}
        return about if self.takes_unnamed else about | {"takes_unnamed": False}

    def before(self, job: Job, lease: Lease) -> Answer | None:
        """Raise ModelNotFound for a job of another model, which a tool of an earlier release has queued for any."""
        if job.model is not None and lease.header.model is None and job.model not in self.names:
            raise ModelNotFound("model: the job was queued for any model by an earlier release; submit it again")
        return None

    def after(self, job: Job, lease: Lease, outcome: Outcome) -> Outcome:
        if not isinstance(outcome, Answer) or not self.declared:
            return outcome
        name = lease.header.model or self.names[0]
        return outcome if outcome.model == name else outcome.model_copy(update={"model": name})
