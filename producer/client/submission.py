"""What a producer sends to Redis and what the replies mean, for synchronous and asynchronous callers. No I/O."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery.backends.base import Backend

from producer.ready import brought_by, weight
from vqa.answer import Answer
from vqa.errors import AnswerTimeout, BadImage, ImageMissing, UnknownJob, VQAError
from vqa.image import open_image
from vqa.image_store import MARGIN_S, image_key, queue_put, reference
from vqa.job import Job, Lane
from vqa.ledger.commands import Call, accept_call, outcome_key
from vqa.ledger.ledger import DEADLINES
from vqa.results import Outcome, decode
from vqa.settings import QueueSettings

#: jobs and bytes of pictures that one round trip carries
CHUNK = 500
CHUNK_BYTES = 32 * 2**20

#: jobs that have come are sent after so long, though a round trip would carry more
SOON_S = 0.05

#: a job open for so long after its deadline is closed by whoever waits for it; workers and their janitor come first
GRACE_MS = 1000

#: the bytes of an outcome, or why there will be none
Found = bytes | UnknownJob


@dataclass(frozen=True, slots=True)
class Look:
    """What has become of some jobs; those that are open and in time are in none of these."""

    found: dict[str, Found]
    #: open past their deadline and its grace
    overdue: list[str]
    #: neither open nor ended; a dead letter that was retried just now may seem so, once
    unknown: list[str]


def reply_list() -> str:
    """A new key for the list on which one client hears which of its jobs ended."""
    return f"vqa:reply:{uuid.uuid4()}"


@dataclass(slots=True)
class Submission:
    """Jobs made ready to be sent: their pictures by reference, and one `accept` each."""

    wakeups: list[tuple[str, Lane]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    #: reference -> bytes, and the longest timeout among the jobs that show the picture
    contents: dict[str, bytes] = field(default_factory=dict)
    keep_s: dict[str, float] = field(default_factory=dict)

    def queue_pictures(self, pipe: Any) -> None:
        """Queue what puts the pictures into the store; one that a job names by reference must be there already."""
        for name, timeout_s in self.keep_s.items():
            if name in self.contents:
                queue_put(pipe, name, self.contents[name], timeout_s)
            else:
                pipe.expire(image_key(name), int(timeout_s) + MARGIN_S, gt=True)
                pipe.exists(image_key(name))

    def check_pictures(self, replies: Sequence[Any]) -> None:
        """Raise ImageMissing when the store lacks a picture that a job names; `replies` are `queue_pictures`'."""
        # two commands a picture, the second of which says whether it is there
        for name, there in zip(self.keep_s, replies[1::2], strict=True):
            if name not in self.contents and not there:
                raise ImageMissing(f"picture {name[:19]}... is not in the image store; submit the job with its bytes")


def prepare(jobs: Iterable[Job], settings: QueueSettings, reply: str) -> Submission:
    """The jobs with their lanes' defaults, their pictures checked by header. Raises BadImage, naming the job."""
    submission = Submission()
    names: dict[bytes, str] = {}
    for job in map(settings.resolved, jobs):
        timeout_s = job.timeout_s or settings.timeout_s(job.lane)
        pictures = [part.image for part in job.images()]
        for picture in pictures:
            if isinstance(picture, bytes) and picture not in names:
                names[picture] = _checked(job.id, picture, settings)
                submission.contents[names[picture]] = picture
            name = names[picture] if isinstance(picture, bytes) else picture
            submission.keep_s[name] = max(timeout_s, submission.keep_s.get(name, 0))
        submission.contents |= brought_by(job)
        if pictures:
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
    """The jobs in lists that a round trip carries, limited in number, in bytes of pictures, and in time to gather."""
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


def queue_look(pipe: Any, ids: Sequence[str]) -> None:
    """Queue what asks what has become of `ids`. In this order, so that a job that ends meanwhile is found.

    No transaction: a Redis that is full would refuse it.
    """
    pipe.time()
    pipe.zmscore(DEADLINES, list(ids))
    pipe.mget([outcome_key(id) for id in ids])


def parse_look(ids: Sequence[str], reply: Sequence[Any]) -> Look:
    """What `queue_look` saw."""
    (seconds, micros), deadlines, outcomes = reply
    latest = seconds * 1000 + micros // 1000 - GRACE_MS
    look = Look({}, [], [])
    for id, deadline, outcome in zip(ids, deadlines, outcomes, strict=True):
        if outcome is not None:
            look.found[id] = outcome
        elif deadline is None:
            look.unknown.append(id)
        elif deadline < latest:
            look.overdue.append(id)
    return look


def parse_replies(reply: Any) -> list[str]:
    """The ids in what BLMPOP took from a reply list."""
    return [id.decode() for id in reply[1]] if reply else []


def unknown(id: str) -> UnknownJob:
    """What is said of an id that nothing is known of."""
    return UnknownJob(f"job {id} is not open, and no outcome of it is kept")


def still_open() -> AnswerTimeout:
    """What is said of a job that its caller does not wait for any longer."""
    return AnswerTimeout("no answer in the time that you gave it; the job goes on, ask for it again by its id")


def outcome_of(backend: Backend, found: Found) -> Outcome:
    """The answer or the error; bytes that this version cannot read are an error too."""
    if isinstance(found, UnknownJob):
        return found
    try:
        return decode(backend, found)
    except (ValueError, KeyError, TypeError) as error:
        return VQAError(f"the job's outcome is not one that this version of vqa reads ({type(error).__name__})")


def answer_of(outcome: Outcome) -> Answer:
    """The answer; raises the error."""
    if isinstance(outcome, VQAError):
        raise outcome
    return outcome
