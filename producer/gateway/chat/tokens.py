"""Counts of tokens that an API key's limits are charged with: estimates before a job runs, exact ones after it."""

from __future__ import annotations

from vqa.answer import Answer
from vqa.job import Job

#: estimates for an image and for a chat template; what was not used is refunded
_IMAGE_TOKENS, _TEMPLATE_TOKENS = 1024, 32
_CHARACTERS_PER_TOKEN = 3


def used_tokens(answer: Answer) -> int:
    return 0 if answer.reused else answer.usage.total_tokens


def prompt_tokens(job: Job) -> int:
    """Return an estimate of the prompt's tokens before the job runs."""
    parts = [part for message in job.messages for part in message.content]
    characters = sum(len(part.text) for part in parts if part.type == "text")
    images = sum(part.type == "image" for part in parts)
    return text_tokens(characters) + images * _IMAGE_TOKENS + _TEMPLATE_TOKENS


def text_tokens(characters: int) -> int:
    """Return an estimate of the tokens of a text."""
    return -(-characters // _CHARACTERS_PER_TOKEN)
