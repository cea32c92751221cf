"""An answer in pieces, as OpenAI's `chat.completion.chunk` objects."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from producer.openai.chat_completion import EXTRA, usage_object
from vqa.answer import Answer


class ChatChunks:
    """The chunks of one stream, which share id, time and model.

    Order: `role`, `text` for each piece, `finish`, and `usage` if the request asked for it.
    """

    def __init__(self, id: str, model: str, include_usage: bool = False) -> None:
        self._head = {"id": id, "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
        # as OpenAI: with include_usage, the other chunks have a null usage
        self._tail: Mapping[str, Any] = {"usage": None} if include_usage else {}

    def _chunk(self, delta: Mapping[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "choices": [choice], **self._tail}

    def role(self) -> dict[str, Any]:
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text})

    def restarted(self, attempt: int) -> dict[str, Any]:
        """Say that the job was lost with its worker and runs again; clients skip chunks without choices."""
        return {**self._head, "choices": [], **self._tail, "vqa": {"restarted": {"attempt": attempt}}}

    def finish(self, answer: Answer) -> dict[str, Any]:
        """Return the chunk with the reason of the end, and under `vqa` what OpenAI has no place for."""
        # the model that answered, which a stream learns last
        self._head["model"] = answer.model
        extra = answer.model_dump(mode="json", include={*EXTRA, "reasoning"}, exclude_none=True)
        return {**self._chunk({}, answer.finish_reason), "vqa": extra}

    def usage(self, answer: Answer) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": usage_object(answer)}
