"""What a producer sends to Redis and what the replies mean, for synchronous and asynchronous callers. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from celery.backends.base import Backend
from kombu.exceptions import KombuError
from redis.exceptions import AuthenticationError, OutOfMemoryError, ResponseError

from vqa.answer import Answer
from vqa.connection import UNREACHED
from vqa.errors import AnswerTimeout, BadImage, ImageMissing, QueueUnavailable, UnknownJob, VQAError
from vqa.image import open_image
from vqa.job import Job, Lane
from vqa.ledger import DEADLINES, Call, accept_call, outcome_key
from vqa.outcome import Outcome, decode
from vqa.settings import QueueSettings
from vqa.store import MARGIN_S, image_key, queue_put, reference

#: jobs and bytes of pictures that one round trip carries
CHUNK = 500
CHUNK_BYTES = 32 * 2**20

#: a job open for so long after its deadline is closed by whoever waits for it; workers and their janitor come first
GRACE_MS = 1000

#: the bytes of an outcome, or why there will be none
Found = bytes | UnknownJob


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
        if pictures:
            job = job.with_images(names)
        submission.wakeups.append((job.id, job.lane))
        submission.calls.append(accept_call(job.id, job.lane, job.to_json(), timeout_s, reply))
    return submission


def _checked(id: str, data: bytes, settings: QueueSettings) -> str:
    try:
        open_image(data, settings.image_max_bytes, settings.image_max_pixels)
    except BadImage as error:
        raise BadImage(f"job {id}: {error}") from None
    return reference(data)


def chunks(jobs: Iterable[Job], most: int = CHUNK) -> Iterator[list[Job]]:
    """The jobs in lists that a round trip carries, limited in number and in bytes of pictures."""
    chunk: list[Job] = []
    size = 0
    for job in jobs:
        chunk.append(job)
        size += sum(len(part.image) for part in job.images())
        if len(chunk) == most or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def queue_look(pipe: Any, ids: Sequence[str]) -> None:
    """Queue what asks, at one moment, what has become of `ids`; the pipeline must be a transaction."""
    pipe.time()
    pipe.zmscore(DEADLINES, list(ids))
    pipe.mget([outcome_key(id) for id in ids])


def parse_look(ids: Sequence[str], reply: Sequence[Any]) -> tuple[dict[str, Found], list[str]]:
    """What `queue_look` saw: how jobs ended, and the ids that are open past their deadline and its grace."""
    (seconds, micros), deadlines, outcomes = reply
    latest = seconds * 1000 + micros // 1000 - GRACE_MS
    found: dict[str, Found] = {}
    overdue = []
    for id, deadline, outcome in zip(ids, deadlines, outcomes, strict=True):
        if outcome is not None:
            found[id] = outcome
        elif deadline is None:
            found[id] = unknown(id)
        elif deadline < latest:
            overdue.append(id)
    return found, overdue


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


@contextmanager
def reaching(settings: QueueSettings) -> Iterator[None]:
    """Turn whatever Redis and kombu raise into QueueUnavailable that says what to check, without the password."""
    try:
        yield
    except UNREACHED as error:
        # kombu wraps what Redis said
        cause = error.__cause__ if isinstance(error, KombuError) and error.__cause__ else error
        raise QueueUnavailable(_explain(cause, settings.redis_url)) from error


def _explain(error: BaseException, url: str) -> str:
    parts = urlsplit(url)
    where = f"Redis at {parts.hostname}:{parts.port or 6379}"
    if isinstance(error, AuthenticationError):
        return f"{where} refuses the user or the password; check VQA_REDIS_URL"
    if isinstance(error, OutOfMemoryError):
        return f"{where} is full; raise its maxmemory, or wait until jobs are answered"
    if isinstance(error, ResponseError):
        # the rest of the line may repeat what was sent
        return f"{where} refused a command ({str(error).partition(' ')[0]}); vqa needs Redis 7.0 or later and its keys"
    return f"{where} does not answer ({type(error).__name__}); check that it runs and that VQA_REDIS_URL names it"
