"""A prompt as the body of a chat-completions request."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vqa.errors import InvalidJob
from workers.engine.base import Prompt, SamplingParams, Turn
from workers.engine.image import RGBImage
from workers.engine.remote.dialect import Dialect
from workers.engine.remote.formats import AnswerFormat
from workers.engine.remote.images import ImageUrls
from workers.engine.video import NO_VIDEOS


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is sent for one prompt; its messages are encoded already, since they are large."""

    params: SamplingParams
    messages: bytes
    answer_format: AnswerFormat | None
    #: most tokens of a thought
    reasoning_tokens: int
    cache_salt: str

    @classmethod
    def from_prompt(cls, prompt: Prompt, images: ImageUrls, reasoning_tokens: int) -> ChatRequest:
        """Encode a prompt; `reasoning_tokens` is for jobs that say none. Raises InvalidJob for what cannot be sent."""
        params = prompt.params
        if params.choices or params.forced is not None:
            raise InvalidJob(
                "probabilities of choices need every token's probability, which a remote server does not tell: "
                "ask for a choice without probabilities, or for logprobs"
            )
        answer_format = AnswerFormat.from_grammar(params.grammar) if params.grammar is not None else None
        most = params.max_reasoning_tokens
        messages = [_message(turn, images) for turn in prompt.turns]
        return cls(
            params,
            json.dumps(messages, separators=(",", ":")).encode(),
            answer_format,
            reasoning_tokens if most is None else most,
            prompt.cache_salt,
        )

    def body(self, model: str, dialect: Dialect, thinks: bool) -> bytes:
        """Return the request as JSON. `thinks`: the model is known to think before it answers."""
        fields = {"model": model, **self._fields(dialect, thinks)}
        return b'{"messages":' + self.messages + b"," + json.dumps(fields, separators=(",", ":")).encode()[1:]

    def streams(self, dialect: Dialect) -> bool:
        """Whether the answer comes in pieces."""
        return dialect.streams_all or not (self.params.logprobs or self.params.n > 1)

    def _fields(self, dialect: Dialect, thinks: bool) -> dict[str, Any]:
        params = self.params
        fields: dict[str, Any] = {"max_tokens": params.max_new_tokens, "temperature": params.temperature}
        if dialect.bounds_reasoning:
            fields["max_reasoning_tokens"] = self.reasoning_tokens
        elif thinks:
            fields["max_tokens"] += self.reasoning_tokens
        if self.streams(dialect):
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        if params.temperature > 0:
            # servers have defaults of their own, or the checkpoint's, for what is not said
            fields |= {"top_p": params.top_p, "top_k": params.top_k or dialect.all_tokens, "min_p": params.min_p}
        if self.answer_format is not None:
            fields["response_format"] = self.answer_format.request()
        if self.cache_salt and dialect.has_cache_salt:
            fields["cache_salt"] = self.cache_salt
        return fields | _given(params)


def _given(params: SamplingParams) -> dict[str, Any]:
    """Return the fields that are sent only where they have an effect."""
    fields: dict[str, Any] = {
        "seed": params.seed if params.temperature > 0 else None,
        "stop": list(params.stop) or None,
        "presence_penalty": params.presence_penalty or None,
        "frequency_penalty": params.frequency_penalty or None,
        "repetition_penalty": params.repetition_penalty,
        "n": params.n if params.n > 1 else None,
        "logprobs": params.logprobs or None,
        "top_logprobs": params.top_logprobs or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _message(turn: Turn, images: ImageUrls) -> dict[str, Any]:
    if len(turn.parts) == 1 and isinstance(turn.parts[0], str):
        # some chat templates take no list
        return {"role": turn.role, "content": turn.parts[0]}
    parts: list[dict[str, Any]] = []
    for part in turn.parts:
        if isinstance(part, str):
            parts.append({"type": "text", "text": part})
        elif isinstance(part, RGBImage):
            parts.append({"type": "image_url", "image_url": {"url": images.url(part)}})
        else:
            raise InvalidJob(NO_VIDEOS)
    return {"role": turn.role, "content": parts}
