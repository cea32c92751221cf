"""Fields of a chat-completions body besides its messages.

Fields that cannot be honoured are refused by name, so that no answer differs from what was asked; values without effect
are accepted. Whether workers serve the `model` is for others to find out. Null fields count as missing. Without
`temperature`, decoding is greedy, as everywhere in this project, unless the workers have another default
(VQA_SAMPLING_DEFAULTS); OpenAI's default is 1. `top_k`, `min_p` and `repetition_penalty` are vLLM's names.
`max_reasoning_tokens` is this project's own: OpenAI's `reasoning_effort`, which is refused, says no number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from producer.openai.chat_messages import parse_messages
from producer.openai.media_parts import ResolveUrl, video_defaults
from vqa.errors import InvalidJob
from vqa.frozen_model import shown

#: names of a body's fields in a job
JOB_FIELDS: Final[Mapping[str, str]] = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_reasoning_tokens": "max_reasoning_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "n": "n",
    "top_k": "top_k",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repetition_penalty",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "stop": "stop",
    "response_format": "response_format",
    "metadata": "metadata",
}

_NUMBERS = frozenset(
    {
        *("max_tokens", "max_completion_tokens", "max_reasoning_tokens", "seed", "n"),
        *("temperature", "top_p", "top_k", "min_p"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "top_logprobs"),
    }
)

#: Values without effect, which chat front ends send with every request, are left out. So rows of a batch that an
#: earlier release began are recognised, and earlier workers can read the job.
_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
}

#: `messages` is read elsewhere; the others say nothing about the answer
IGNORED = frozenset(
    {
        *("messages", "model", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        *("service_tier", "parallel_tool_calls"),
    }
)

#: vLLM's: how all videos of the body are read
MEDIA_FIELDS = "media_io_kwargs"

#: fields that may only have a value without effect; a message names the first
FIXED: Final[Mapping[str, tuple[Any, ...]]] = {
    "stream": (False,),
    "stream_options": ({},),
    "store": (False,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
}


def job_fields(body: Mapping[str, Any], place: str, resolve: ResolveUrl) -> dict[str, Any]:
    """Return the fields of a job; `place` is how error messages name the body. Raises InvalidJob or BadImage."""
    fields: dict[str, Any] = {}
    for name, value in body.items():
        if name in FIXED:
            if not any(map(partial(_equal, value), FIXED[name])):
                raise InvalidJob(f"{place}{name}: only {json.dumps(FIXED[name][0])} is supported")
        elif name in JOB_FIELDS:
            if name in _NUMBERS:
                require_number(value, f"{place}{name}")
            elif name == "logprobs" and not isinstance(value, bool):
                raise InvalidJob(f"{place}logprobs: must be true or false")
            if fields.setdefault(JOB_FIELDS[name], value) != value:
                raise InvalidJob(f"{place.strip('.') or 'the body'}: max_tokens and max_completion_tokens differ")
        elif name not in IGNORED and name != MEDIA_FIELDS:
            raise InvalidJob(f"{place}{shown(name)}: not supported")
    fields = {name: value for name, value in fields.items() if value not in _NEUTRAL.get(name, ())}
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    videos = video_defaults(body.get(MEDIA_FIELDS, {}), f"{place}{MEDIA_FIELDS}")
    fields["messages"] = parse_messages(body.get("messages"), f"{place}messages", resolve, videos)
    return fields


def require_number(value: object, place: str) -> None:
    """Raise InvalidJob for a number in a string, which pydantic would read, and for true and false."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidJob(f"{place}: must be a number")


def _equal(value: object, fixed: object) -> bool:
    # to Python, True is 1
    return value == fixed and isinstance(value, bool) == isinstance(fixed, bool)
