"""Everything that can go wrong with a job, as one tree; the class says whether another attempt is worth it.

    VQAError
    ├── TransientError            another attempt may succeed
    │   └── EngineError           the engine failed on this prompt, or its process is going down
    ├── PermanentError            the same job would fail again
    │   ├── InvalidJob            not a job: a misspelt field, a value out of range
    │   │   └── UnsupportedVersion    written by a newer vqa than this worker
    │   ├── BadImage              not an image we read, or over the limits on bytes and pixels
    │   ├── ImageMissing          its image is not (or no longer) in the image store
    │   ├── PromptTooLong         more tokens than a slot holds
    │   ├── AnswerTooLong         a structured answer that max_new_tokens would have cut
    │   ├── DeadlineExceeded      its timeout ran out, waiting or running
    │   ├── Cancelled             somebody asked for it to stop
    │   └── JobGivenUp            its attempts are used up; it is kept as a dead letter
    ├── AnswerTimeout             the caller stopped waiting; the job itself goes on
    ├── UnknownJob                no job of that id is open, and no outcome of it is kept
    ├── UnknownBatch              no batch of that id is kept
    ├── QueueUnavailable          Redis did not answer
    ├── QueueFull                 there is no room for more jobs
    ├── SettingsError             a setting is wrong; the message names the variable
    └── NotReady                  a worker could not load its model or does not fit its card

Messages never hold a question, an answer or an image: Flower and the logs show them. Constructors take the message
alone, so that Celery's result backend can rebuild the class at the producer.
"""

from __future__ import annotations

import re
from typing import ClassVar


class VQAError(Exception):
    """Root of the tree. `attempts` and `last_error` are filled in where an outcome is read."""

    retry: ClassVar[bool] = False
    #: attempts that the job had when it ended; 0 where it never ran or the error is not an outcome
    attempts: int = 0
    #: the transient error of the attempt before the last, as `Class: message`
    last_error: str | None = None

    @classmethod
    def code(cls) -> str:
        """The class's name as bulk files and HTTP write it: `DeadlineExceeded` is `deadline_exceeded`."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()


class TransientError(VQAError):
    """Another attempt may succeed: the job is retried as its retry policy says."""

    retry = True


class EngineError(TransientError):
    """The engine failed on this prompt, or the process that held it is going down."""


class PermanentError(VQAError):
    """The same job would fail again."""


class InvalidJob(PermanentError):
    """Not a job: a misspelt field, a value out of range, no question."""


class UnsupportedVersion(InvalidJob):
    """The job was written by a newer vqa than the worker that took it; upgrade the workers first."""


class BadImage(PermanentError):
    """Not an image that we read, or over the limits on bytes and pixels."""


class ImageMissing(PermanentError):
    """The job's image is not, or no longer, in the image store."""


class PromptTooLong(PermanentError):
    """The prompt and its answer need more tokens (or memory) than a slot holds."""


class AnswerTooLong(PermanentError):
    """A structured answer did not fit max_new_tokens, or holds more than can be read; cut, it would not parse."""


class DeadlineExceeded(PermanentError):
    """The job's timeout ran out, while it waited or while it ran."""


class Cancelled(PermanentError):
    """Somebody asked for the job to stop."""


class JobGivenUp(PermanentError):
    """The job's attempts are used up; it is kept as a dead letter, to be retried by hand (`vqa dlq`)."""


class AnswerTimeout(VQAError):
    """The caller's own wait ended; the job goes on and its answer can be collected later."""


class UnknownJob(VQAError):
    """No job of that id is open, and no outcome of it is kept."""


class UnknownBatch(VQAError):
    """No batch of that id is kept."""


class QueueUnavailable(VQAError):
    """Redis did not answer in time; whatever was accepted before is kept."""


class QueueFull(VQAError):
    """There is no room for more jobs, in number or in Redis's memory; nothing of this one was accepted."""


class SettingsError(VQAError):
    """A setting is wrong; the message names the variable."""


class NotReady(VQAError):
    """A worker could not load its model, or its slots do not fit its card."""
