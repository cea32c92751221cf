"""The tree of exceptions; an exception's class says whether another attempt may succeed.

    VQAError
    ├── TransientError            another attempt may succeed
    │   ├── EngineError           the engine failed on this prompt, or its process is ending
    │   └── ImageUnavailable      its image could not be fetched for the moment
    ├── PermanentError            the same job would fail again
    │   ├── InvalidJob            no valid job: an unknown field, a value out of range
    │   │   ├── UnsupportedVersion    written by a newer vqa than the worker's
    │   │   └── ModelNotFound         it names a model that no worker serves
    │   ├── BadImage              not an image in a supported format, or too many bytes or pixels
    │   ├── ImageMissing          its image is not, or no longer, in the image store
    │   ├── PromptTooLong         more tokens than a slot holds
    │   ├── AnswerTooLong         a structured answer that does not fit max_new_tokens
    │   ├── QuestionRefused       it has words that the worker's filter refuses
    │   ├── DeadlineExceeded      its timeout ran out while it waited or ran
    │   ├── Cancelled             it was cancelled
    │   └── JobGivenUp            all its attempts failed; it is kept as a dead letter
    ├── AnswerTimeout             the caller stopped waiting; the job goes on
    ├── UnknownJob                no job with that id is open, and no outcome is kept for it
    ├── UnknownBatch              no batch with that id is kept
    ├── QueueUnavailable          Redis does not answer, or refuses a command
    ├── QueueFull                 a limit on open jobs or on Redis's memory is reached
    ├── SettingsError             a setting is wrong; the message names the variable
    └── NotReady                  a worker could not load its model, or its slots do not fit its card

Messages never contain a question, an answer or an image, since Flower and the logs show them. Constructors take only
the message, so that Celery's result backend can rebuild the exception at the producer.
"""

from __future__ import annotations

import re
from typing import ClassVar


class VQAError(Exception):
    """The root of the tree. `attempts` and `last_error` are set on errors that are read as a job's outcome."""

    retry: ClassVar[bool] = False
    #: attempts of the job; 0 if it never ran or if the error is not an outcome
    attempts: int = 0
    #: the job's last transient error, as `Class: message`
    last_error: str | None = None

    @classmethod
    def code(cls) -> str:
        """Return the class's name as written in bulk files and HTTP: `DeadlineExceeded` is `deadline_exceeded`."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()


class TransientError(VQAError):
    """Another attempt may succeed; the job is retried by its retry policy."""

    retry = True


class EngineError(TransientError):
    """The engine failed on this prompt, or its process is ending."""


class ImageUnavailable(TransientError):
    """The job's image could not be fetched for the moment, from its URL or the store: a timeout or a server error."""


class PermanentError(VQAError):
    """The same job would fail again."""


class InvalidJob(PermanentError):
    """No valid job: an unknown field, a value out of range, no question."""


class UnsupportedVersion(InvalidJob):
    """The job was written by a newer vqa than the worker's; upgrade workers before producers."""


class ModelNotFound(InvalidJob):
    """The job names a model that no worker serves; the message lists those that are served."""


class BadImage(PermanentError):
    """Not an image in a supported format, or one with too many bytes or pixels."""


class ImageMissing(PermanentError):
    """The job's image is not, or no longer, in the image store."""


class PromptTooLong(PermanentError):
    """The prompt and its answer need more tokens (or memory) than a slot holds.

    The attributes are an engine's, for the worker that shrinks images, and not part of an outcome.
    """

    #: tokens that are too many, and how many there may be; None if not known, or if they are not the reason
    excess: int | None = None
    limit: int | None = None


class AnswerTooLong(PermanentError):
    """A structured answer does not fit max_new_tokens, so that it does not parse, or holds values too large to read."""


class QuestionRefused(PermanentError):
    """The question has words that the worker's filter refuses; the message names their categories."""

    @classmethod
    def code(cls) -> str:
        # the code that clients of OpenAI's and Azure's APIs look for
        return "content_filter"


class DeadlineExceeded(PermanentError):
    """The job's timeout ran out while it waited or ran."""


class Cancelled(PermanentError):
    """The job was cancelled."""


class JobGivenUp(PermanentError):
    """All attempts of the job failed; it is kept as a dead letter, which `vqa dlq` can retry."""


class AnswerTimeout(VQAError):
    """The caller stopped waiting; the job goes on, and its answer can be read later."""


class UnknownJob(VQAError):
    """No job with that id is open, and no outcome is kept for it."""


class UnknownBatch(VQAError):
    """No batch with that id is kept."""


class QueueUnavailable(VQAError):
    """Redis did not answer in time, or refused a command; jobs that were accepted before are kept."""


class QueueFull(VQAError):
    """The limit on open jobs or on Redis's memory is reached; the job was not accepted."""


class SettingsError(VQAError):
    """A setting is wrong; the message names the variable."""


class NotReady(VQAError):
    """A worker could not load its model, or its slots do not fit its card."""
