"""Which of Celery's lists a job waits on, by its lane and its model. No I/O.

A queue is a lane of one model: `interactive.NAME` and `bulk.NAME`. Jobs that name no model wait on `interactive` and
`bulk`. The names are those of the lists, and the ends of the ledger's keys.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from vqa.jobs.job import MODEL_PATTERN
from vqa.jobs.lane import LANES, Lane

#: says what `MODEL_PATTERN` does
MODEL_CHARACTERS = "1 to 128 letters, digits and ._/@:+-, the first a letter or digit"

_MODEL = re.compile(MODEL_PATTERN)

_SEPARATOR = "."


def is_model_name(name: object) -> bool:
    # `$` would allow a newline at the end
    return isinstance(name, str) and _MODEL.fullmatch(name) is not None


def queue_name(lane: Lane, model: str | None = None) -> str:
    """Return the name of a lane's list, for jobs of one model or for those that name none."""
    return lane if model is None else f"{lane}{_SEPARATOR}{model}"


# workers ask for each message that they hold, at each pop
@lru_cache(maxsize=1024)
def lane_of(queue: str) -> Lane:
    """Return the lane of a queue; `bulk` for Celery's default queue and for others' lists."""
    lane = queue.partition(_SEPARATOR)[0]
    return next((known for known in LANES if known == lane), "bulk")


def model_of(queue: str) -> str | None:
    """Return the model whose jobs wait on a queue; None for a lane of jobs that name none."""
    model = queue.partition(_SEPARATOR)[2]
    return model if is_model_name(model) else None


def is_in_share(model: str, id: str, percent: float) -> bool:
    """Return whether a job belongs to a share of a model's jobs. A smaller share is a part of every larger one."""
    # the model is hashed too: the canaries of two models get different jobs
    digest = hashlib.sha256(f"{model}\n{id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < percent / 100 * 2**64
