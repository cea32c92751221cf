"""Turns jobs into Redis commands, for the synchronous and the asynchronous client. No I/O."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from producer.arrivals import arriving
from producer.images.content import check_content
from producer.images.parts import Use, job_uses
from vqa.errors import BadImage, ImageMissing, InvalidJob
from vqa.images.store import ImageStore, reference
from vqa.images.stored_id import is_stored_id
from vqa.jobs.job import Job
from vqa.jobs.lane import Lane
from vqa.jobs.message import is_url
from vqa.ledger.commands import Command, accept_command
from vqa.settings import QueueSettings
from vqa.tracing.traceparent import Traceparent

#: jobs, and bytes of images, in one round trip
CHUNK = 500
CHUNK_BYTES = 32 * 2**20

#: a chunk is sent after this time even if it is not full
CHUNK_WAIT_S = 0.05


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job to send, with the bytes of images that it names by reference: checked and hashed already."""

    job: Job
    #: reference -> bytes
    images: Mapping[str, bytes] = field(default_factory=dict)
    #: whether its text is wanted while it is generated
    stream: bool = False
    #: W3C traceparent of the caller
    trace: str | None = None

    def __post_init__(self) -> None:
        if self.trace is not None and Traceparent.parse(self.trace) is None:
            raise InvalidJob(f"job {self.id}: trace is not a W3C traceparent")

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def lane(self) -> Lane:
        return self.job.lane

    def upload_bytes(self) -> int:
        """Return about how many bytes of images are sent with the job."""
        own = sum(len(image) for image in self.job.contents() if isinstance(image, bytes))
        return own + sum(map(len, self.images.values()))

    def with_references(self, references: Mapping[str, str]) -> Self:
        """Return the job with the ids of stored images replaced by their references."""
        return replace(self, job=self.job.with_images(references)) if references else self


def stored_ids(jobs: Iterable[PreparedJob]) -> list[str]:
    """Return the ids of the stored images that the jobs name."""
    images = (each for prepared in jobs for each in prepared.job.contents())
    return [image for image in images if isinstance(image, str) and is_stored_id(image)]


@dataclass(slots=True)
class Submission:
    """Jobs ready to be sent: image uploads by reference, and one `accept` command per job."""

    commands: list[Command] = field(default_factory=list)
    #: reference -> bytes, and the longest timeout among the jobs that use the image
    contents: dict[str, bytes] = field(default_factory=dict)
    keep_s: dict[str, float] = field(default_factory=dict)

    def store_images(self, store: ImageStore) -> None:
        """Store the images, and extend the life of those that must be in the store already. Raises ImageMissing."""
        for name, size in store.write(self.contents, self.keep_s).items():
            if size is None:
                raise ImageMissing(f"image {name[:19]}... is not in the image store; submit the job with its bytes")


def prepare(
    jobs: Iterable[PreparedJob], settings: QueueSettings, reply_list: str, routes: Mapping[str, str]
) -> Submission:
    """Apply lane defaults, check image headers and build the commands. Raises BadImage, naming the job.

    `routes` are the models that jobs go to, by job id.
    """
    submission = Submission()
    names: dict[bytes, str] = {}
    for prepared in jobs:
        job = settings.resolved(prepared.job)
        timeout_s = settings.job_timeout_s(job)
        images = job_uses(job)
        for image, use in images.items():
            if isinstance(image, str) and is_url(image):
                # for the worker to fetch
                continue
            if isinstance(image, bytes) and image not in names:
                names[image] = _checked_reference(job.id, image, settings, use)
                submission.contents[names[image]] = image
            name = names[image] if isinstance(image, bytes) else image
            submission.keep_s[name] = max(timeout_s, submission.keep_s.get(name, 0))
        submission.contents |= prepared.images
        if images:
            job = job.with_images(names)
        owner = (job.tenant, job.batch)
        submission.commands.append(
            accept_command(
                *(job.id, job.lane, job.to_json(), timeout_s, reply_list, settings.limits, *owner),
                stream=prepared.stream,
                trace=prepared.trace,
                model=routes.get(job.id),
                named=job.model,
            )
        )
    return submission


def _checked_reference(id: str, data: bytes, settings: QueueSettings, use: Use) -> str:
    try:
        check_content(data, settings, use)
    except BadImage as error:
        raise BadImage(f"job {id}: {error}") from None
    return reference(data)


def chunks(jobs: Iterable[Job | PreparedJob | None], limit: int = CHUNK) -> Iterator[list[PreparedJob]]:
    """Split jobs into lists for one round trip each, limited in number, image bytes and time spent on gathering.

    None in place of a job says that the next one is not there yet: what has been gathered, if anything, does not wait.
    """
    chunk: list[PreparedJob] = []
    size = 0
    started = time.monotonic()
    for job in jobs:
        if job is not None:
            chunk.append(_prepared(job))
            size += chunk[-1].upload_bytes()
        full = len(chunk) == limit or size >= CHUNK_BYTES
        if job is None or full or time.monotonic() - started >= CHUNK_WAIT_S:
            yield chunk
            chunk, size, started = [], 0, time.monotonic()
    if chunk:
        yield chunk


def arriving_chunks(jobs: Iterable[Job | PreparedJob | None], limit: int = CHUNK) -> Iterator[list[PreparedJob]]:
    """Split jobs as `chunks` does, but let none of them wait for the next one for longer than CHUNK_WAIT_S.

    For that a generator, or whatever else is no collection, is read in a thread of its own, while a list is asked for.
    An empty list says that no job has come for that long.
    """
    if isinstance(jobs, Collection):
        return chunks(jobs, limit)
    prepared = (_prepared(job) for job in jobs if job is not None)
    return arriving(prepared, CHUNK_WAIT_S, limit, PreparedJob.upload_bytes, CHUNK_BYTES)


def _prepared(job: Job | PreparedJob) -> PreparedJob:
    return PreparedJob(job) if isinstance(job, Job) else job
