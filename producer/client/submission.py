"""What a producer sends to Redis and what the replies mean, for synchronous and asynchronous callers. No I/O."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import PrivateAttr

from vqa.errors import BadImage, ImageMissing
from vqa.image import open_image
from vqa.image_store import MARGIN_S, image_key, queue_put, reference
from vqa.job import Job, Lane
from vqa.ledger.commands import Call, accept_call
from vqa.settings import QueueSettings


class Ready(Job):
    """Names its images by reference and brings their bytes along; they are neither checked nor hashed again."""

    _brought: Mapping[str, bytes] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, job: Job, brought: Mapping[str, bytes]) -> Self:
        """The job with the bytes of the images that it names, by reference."""
        ready = cls.model_construct(_fields_set=set(job.model_fields_set), **dict(job))
        ready._brought = brought
        return ready


def brought_by(job: Job) -> Mapping[str, bytes]:
    """The images that come with a job, by reference."""
    return job._brought if isinstance(job, Ready) else {}


def weight(job: Job) -> int:
    """Bytes of images that sending the job takes, nearly."""
    return sum(len(part.image) for part in job.images()) + sum(map(len, brought_by(job).values()))


#: jobs and bytes of images that one round trip carries
CHUNK = 500
CHUNK_BYTES = 32 * 2**20

#: jobs that have come are sent after so long, though a round trip would carry more
SOON_S = 0.05


@dataclass(slots=True)
class Submission:
    """Jobs made ready to be sent: their images by reference, and one `accept` each."""

    wakeups: list[tuple[str, Lane]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    #: reference -> bytes, and the longest timeout among the jobs that show the image
    contents: dict[str, bytes] = field(default_factory=dict)
    keep_s: dict[str, float] = field(default_factory=dict)

    def queue_images(self, pipe: Any) -> None:
        """Queue what puts the images into the store; one that a job names by reference must be there already."""
        for name, timeout_s in self.keep_s.items():
            if name in self.contents:
                queue_put(pipe, name, self.contents[name], timeout_s)
            else:
                pipe.expire(image_key(name), int(timeout_s) + MARGIN_S, gt=True)
                pipe.exists(image_key(name))

    def check_images(self, replies: Sequence[Any]) -> None:
        """Raise ImageMissing when the store lacks an image that a job names; `replies` are `queue_images`'."""
        # two commands an image, the second of which says whether it is there
        for name, there in zip(self.keep_s, replies[1::2], strict=True):
            if name not in self.contents and not there:
                raise ImageMissing(f"image {name[:19]}... is not in the image store; submit the job with its bytes")


def prepare(jobs: Iterable[Job], settings: QueueSettings, reply: str) -> Submission:
    """The jobs with their lanes' defaults, their images checked by header. Raises BadImage, naming the job."""
    submission = Submission()
    names: dict[bytes, str] = {}
    for job in map(settings.resolved, jobs):
        timeout_s = job.timeout_s or settings.timeout_s(job.lane)
        images = [part.image for part in job.images()]
        for image in images:
            if isinstance(image, bytes) and image not in names:
                names[image] = _checked(job.id, image, settings)
                submission.contents[names[image]] = image
            name = names[image] if isinstance(image, bytes) else image
            submission.keep_s[name] = max(timeout_s, submission.keep_s.get(name, 0))
        submission.contents |= brought_by(job)
        if images:
            job = job.with_images(names)
        submission.wakeups.append((job.id, job.lane))
        named = (job.tenant, job.batch)
        submission.calls.append(accept_call(job.id, job.lane, job.to_json(), timeout_s, reply, settings.limits, *named))
    return submission


def _checked(id: str, data: bytes, settings: QueueSettings) -> str:
    try:
        open_image(data, settings.image_max_bytes, settings.image_max_pixels)
    except BadImage as error:
        raise BadImage(f"job {id}: {error}") from None
    return reference(data)


def chunks(jobs: Iterable[Job], most: int = CHUNK) -> Iterator[list[Job]]:
    """The jobs in lists that a round trip carries, limited in number, in bytes of images, and in time to gather."""
    chunk: list[Job] = []
    size = 0
    begun = time.monotonic()
    for job in jobs:
        chunk.append(job)
        size += weight(job)
        if len(chunk) == most or size >= CHUNK_BYTES or time.monotonic() - begun >= SOON_S:
            yield chunk
            chunk, size, begun = [], 0, time.monotonic()
    if chunk:
        yield chunk
