"""An answer while it arrives."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vqa.answer import FinishReason
from vqa.errors import AnswerTooLong
from workers.engine.base import Completion, TokenLogprob
from workers.engine.remote.chunk import Choice, Chunk, Usage
from workers.engine.remote.failures import Broken, failure_in_stream
from workers.engine.remote.request import ChatRequest

#: finish reasons that are not `stop`, and those of answers that were not finished: vLLM's `abort`, DeepSeek's
_REASONS: dict[str, FinishReason] = {"length": "length", "content_filter": "content_filter"}
_UNFINISHED = frozenset({"abort", "error", "insufficient_system_resource"})


class CutThought(Exception):
    """The answer ended in its thought, for which the request had left no room: the model was not known to think."""


@dataclass(slots=True)
class _Answer:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: str | None = None


class Reply:
    """Collects the chunks of a reply to one request; `write` gets each piece of the first answer's text, if given."""

    def __init__(self, request: ChatRequest, write: Callable[[str], None] | None = None) -> None:
        self.request = request
        self._write = write
        self._answers = [_Answer() for _ in range(request.params.n)]
        self._usage: Usage | None = None
        #: chunks with text, which are about as many as tokens
        self._pieces = 0
        #: when the request was sent, and when the model had generated something, on the clock of `time.monotonic()`
        self.sent_at, self._first_at = time.monotonic(), 0.0
        #: whether a piece of text was passed on, after which the request cannot be sent again
        self.shown = False

    @property
    def begun(self) -> bool:
        """Whether the model has generated something."""
        return any(each.text or each.reasoning or each.reason for each in self._answers)

    @property
    def finished(self) -> bool:
        """Whether every answer has ended, so that it is whole."""
        return all(each.reason is not None for each in self._answers)

    @property
    def thinks(self) -> bool:
        return any(each.reasoning for each in self._answers)

    def add(self, chunk: Chunk) -> None:
        """Raises Failure, InvalidJob or PromptTooLong if it is an error."""
        if chunk.error is not None or chunk.object == "error":
            raise failure_in_stream(chunk.error, self.request.params.max_new_tokens)
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices or ():
            self._add(choice)
        if not self._first_at and self.begun:
            self._first_at = time.monotonic()
        if chunk.vqa and chunk.vqa.reasoning and not self.thinks:
            self._answers[0].reasoning.append(chunk.vqa.reasoning)

    def _add(self, choice: Choice) -> None:
        if not 0 <= choice.index < len(self._answers):
            raise Broken("the server sent another number of answers than was asked for")
        answer, delta = self._answers[choice.index], choice.delta or choice.message
        if delta is not None:
            if thought := delta.reasoning_content or delta.reasoning:
                answer.reasoning.append(thought)
            if delta.content:
                answer.text.append(delta.content)
                self._pieces += 1
                if choice.index == 0 and self.request.answer_format is None:
                    self._show(delta.content)
        if choice.logprobs is not None:
            answer.logprobs += [token.logprob_of() for token in choice.logprobs.content or ()]
        if choice.finish_reason in _UNFINISHED:
            raise Broken("the server ended the answer before it was finished")
        answer.reason = choice.finish_reason or answer.reason

    def _show(self, piece: str) -> None:
        if self._write is not None:
            self.shown = True
            self._write(piece)

    def completion(self, had_room: bool) -> Completion:
        """Return the answers. `had_room`: the request left room for a thought.

        Raises AnswerTooLong or InvalidJob if one is not in the format that was asked for, and CutThought.
        """
        if not had_room and any(each.reasoning and each.reason == "length" for each in self._answers):
            raise CutThought
        first, *others = (self._completion(each) for each in self._answers)
        if self.request.answer_format is not None:
            self._show(first.text)
        usage = self._usage or Usage(completion_tokens=self._pieces)
        prompt, own = usage.prompt_tokens_details, usage.completion_tokens_details
        return Completion(
            first.text,
            first.finish_reason,
            usage.prompt_tokens or 0,
            usage.completion_tokens or 0,
            first.reasoning,
            cached_tokens=(prompt and prompt.cached_tokens) or 0,
            logprobs=first.logprobs,
            alternatives=tuple(others),
            reasoning_tokens=(own and own.reasoning_tokens) or 0,
            prefill_s=max(0.0, self._first_at - self.sent_at),
            decode_s=time.monotonic() - (self._first_at or self.sent_at),
        )

    def _completion(self, answer: _Answer) -> Completion:
        text, params = "".join(answer.text), self.request.params
        reason = _REASONS.get(answer.reason or "", "stop")
        if self.request.answer_format is not None:
            if reason == "length":
                limit = f"max_new_tokens={params.max_new_tokens}"
                raise AnswerTooLong(f"the structured answer exceeds {limit}; cut off, it would not parse")
            text = self.request.answer_format.text(text)
        thought = "".join(answer.reasoning) or None
        return Completion(text, reason, 0, 0, thought, logprobs=tuple(answer.logprobs) if params.logprobs else ())
