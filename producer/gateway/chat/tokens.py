"""Counts of tokens that an API key's limits are charged with: estimates before a job runs, exact ones after it."""

from __future__ import annotations

from vqa.answer import Answer
from vqa.jobs.job import Job

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


def answer_tokens(job: Job) -> int:
    """Return the most tokens that are generated for the job, or for choices that are scored an estimate."""
    if job.scored_choices:
        # each ends with an end of text
        return sum(min(job.max_new_tokens, text_tokens(len(choice))) + 1 for choice in job.scored_choices)
    # what a thought may have by the worker's own setting is not known here
    return (job.max_new_tokens + (job.max_reasoning_tokens or 0)) * job.n


def text_tokens(characters: int) -> int:
    """Return an estimate of the tokens of a text."""
    return -(-characters // _CHARACTERS_PER_TOKEN)
