"""Clients that put jobs on the queue and read their answers. Needs no torch and no model.

Names are imported on first use, so that the `vqa` command starts without importing Celery and Redis.
"""

# ruff: noqa: F403, F405
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from producer.client.aio import AsyncClient
    from producer.client.aio_streams import AsyncAnswerStream
    from producer.client.batches import Batch
    from producer.client.client import Client
    from producer.client.dead_letters import DeadLetter
    from producer.client.states import JobState
    from producer.client.streams import AnswerStream, TextPiece
    from producer.images.shrink import Shrink
    from producer.prediction import Prediction
    from vqa import *

__all__ = [
    "Answer",
    "AnswerStream",
    "AnswerTimeout",
    "AnswerTooLong",
    "AsyncAnswerStream",
    "AsyncClient",
    "BadImage",
    "Batch",
    "Cancelled",
    "Client",
    "DeadLetter",
    "DeadlineExceeded",
    "EngineError",
    "ImageMissing",
    "ImagePart",
    "ImageUnavailable",
    "InvalidJob",
    "Job",
    "JobGivenUp",
    "JobState",
    "Message",
    "NotReady",
    "PermanentError",
    "Prediction",
    "PromptTooLong",
    "QuestionRefused",
    "QueueFull",
    "QueueUnavailable",
    "RetryPolicy",
    "SettingsError",
    "Shrink",
    "TextPart",
    "TextPiece",
    "Timings",
    "TransientError",
    "UnknownBatch",
    "UnknownJob",
    "UnsupportedVersion",
    "Usage",
    "VQAError",
    "VideoPart",
]

#: names defined in this package; all others come from `vqa`
_OWN = {
    "AnswerStream": "producer.client.streams",
    "AsyncAnswerStream": "producer.client.aio_streams",
    "AsyncClient": "producer.client.aio",
    "Batch": "producer.client.batches",
    "Client": "producer.client.client",
    "DeadLetter": "producer.client.dead_letters",
    "JobState": "producer.client.states",
    "Prediction": "producer.prediction",
    "Shrink": "producer.images.shrink",
    "TextPiece": "producer.client.streams",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_OWN.get(name, "vqa")), name)


def __dir__() -> list[str]:
    return __all__
