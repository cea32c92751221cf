"""An answer as an OpenAI chat completion."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from vqa.answer import Alternative, Answer, Usage

#: fields of an answer that a chat completion has no place for
EXTRA = frozenset(
    {"timings", "worker", "attempt", "reused", "parsed", "choices", "images", "videos", "filtered", "label"}
)


def chat_completion(answer: Answer) -> dict[str, Any]:
    """Return the `chat.completion` object; fields that OpenAI does not have are under `vqa`."""
    extra = answer.model_dump(mode="json", include=set(EXTRA))
    if answer.choices is None:
        del extra["choices"]
    answers: tuple[Answer | Alternative, ...] = (answer, *answer.alternatives)
    return {
        "id": answer.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.model,
        "choices": [_choice(index, each) for index, each in enumerate(answers)],
        "usage": usage_object(answer),
        "vqa": extra,
    }


def _choice(index: int, answer: Answer | Alternative) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text}
    if answer.reasoning is not None:
        # not OpenAI's; DeepSeek's API and vLLM name it so
        message["reasoning_content"] = answer.reasoning
    choice = {"index": index, "message": message, "finish_reason": answer.finish_reason}
    if answer.logprobs is not None:
        content = [token.model_dump(mode="json") for token in answer.logprobs]
        choice["logprobs"] = {"content": content, "refusal": None}
    return choice


def usage_object(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def parse_usage(usage: Mapping[str, Any]) -> Usage:
    """Invert `usage_object`. Raises pydantic's ValidationError."""
    # chat completions of earlier releases have no details
    details = {**usage.get("prompt_tokens_details", {}), **usage.get("completion_tokens_details", {})}
    return Usage.model_validate({**usage, **details})
