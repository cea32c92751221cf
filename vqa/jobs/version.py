"""The versions of the job format, and which of them a job needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vqa.jobs.message import Message, VideoPart, is_url

#: newest known version of the job format; a worker refuses newer ones. 2 added `top_p` and `seed`; 3 added `tenant`,
#: `batch`, `reuse` and `response_format`; 4 added videos, URLs of images, `detail`, `pages`, `max_image_tokens` and
#: `shrink_images`; 5 added `top_k`, `min_p`, the penalties, `logprobs`, `top_logprobs`, `n`, `max_reasoning_tokens` and
#: the probabilities of choices; 6 added `model`. A job gets the oldest version that has all of its fields, so that
#: workers of earlier releases can read it
VERSION = 6

#: defaults of fields that version 1 has not, except None
LATER_DEFAULTS: Mapping[str, Any] = {
    "top_p": 1.0,
    "reuse": False,
    "shrink_images": False,
    "logprobs": False,
    "top_logprobs": 0,
    "n": 1,
}

#: fields of version 5 that say how tokens are chosen; None where the job leaves it to the worker
SAMPLING_SINCE_5 = ("top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")


def oldest_version(data: Mapping[str, Any]) -> int:
    """Return the oldest version of the format that has all of these validated fields of a job."""
    if data.get("model") is not None:
        return 6
    if _needs_5(data):
        return 5
    if data.get("max_image_tokens") or data.get("shrink_images") or _needs_4(data.get("messages", ())):
        return 4
    named = ("tenant", "batch", "response_format")
    if any(data.get(name) is not None for name in named) or data.get("reuse"):
        return 3
    return 1 if data.get("top_p", 1.0) == 1.0 and data.get("seed") is None else 2


def _needs_5(data: Mapping[str, Any]) -> bool:
    """Return whether these fields of a job have what version 4 of the format has not."""
    given = any(data.get(name) is not None for name in (*SAMPLING_SINCE_5, "max_reasoning_tokens"))
    probabilities = getattr(data.get("response_format"), "probabilities", None)
    return bool(given or data.get("logprobs") or data.get("n", 1) > 1 or probabilities)


def _needs_4(messages: Iterable[Message]) -> bool:
    """Return whether the messages have what version 3 of the format has not."""
    for part in (part for message in messages for part in message.visuals()):
        if isinstance(part, VideoPart) or part.detail != "auto" or part.pages is not None:
            return True
        if isinstance(part.image, str) and is_url(part.image):
            return True
    return False
