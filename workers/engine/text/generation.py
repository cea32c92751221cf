"""The answer to one prompt while it is generated: its tokens so far, and when it ends. Independent of the model."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from vqa.answer import FinishReason
from vqa.errors import AnswerTooLong, InvalidJob
from workers.engine.base import Completion, TokenLogprob
from workers.engine.runtime.pending import Pending
from workers.engine.text.detokenizer import Detokenizer, decode
from workers.engine.text.guide import Guide, max_tokens
from workers.engine.text.logprobs import text_logprobs
from workers.engine.text.special_tokens import hidden_ids
from workers.engine.text.text_stream import TextStream
from workers.engine.text.thought_guide import ThoughtGuide


class Generation:
    """The tokens generated for a prompt; settles its future at its own last token, before its microbatch ends.

    The token that ends the text is counted but not part of the text. The text is decoded at the end, or token by token
    if the prompt has stop strings or `on_text`. The thought, which the guide tells from the answer, is not part of it:
    stop strings do not end it, and `on_text` is called with the answer alone.
    """

    #: whether an answer after a thought has begun
    _begun: bool

    def __init__(
        self,
        pending: Pending,
        prompt_tokens: int,
        tokenizer: Any,
        eos_ids: Collection[int],
        guide: Guide | None = None,
        image_sizes: tuple[tuple[int, int] | None, ...] = (),
        *,
        image_tokens: tuple[int | None, ...] = (),
    ) -> None:
        """`guide` must be the one that restricts the choice of these tokens."""
        self.pending = pending
        self.guide = guide
        self.prompt_tokens = prompt_tokens
        #: of the prompt, those that were in the KV cache already
        self.cached_tokens = 0
        #: when the prompt began to be computed, on the clock of `time.monotonic()`
        self.began = time.monotonic()
        #: whether `began` was set by an engine whose prompts wait for a slot after their generation is made
        self.has_slot = False
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._image_sizes, self._image_tokens = image_sizes, image_tokens
        self._special_ids = hidden_ids(tokenizer)
        self._stream = TextStream(pending) if pending.prompt.on_text else None
        self._begin()

    def restart(self) -> None:
        """Discard the tokens: the microbatch failed and the prompt is run again."""
        if self.guide:
            self.guide.restart()
        self._begin()
        if self._stream:
            self._stream.restart()

    def add(self, token: int, logprob: TokenLogprob | None = None) -> None:
        """Append the next token; settle the prompt if it is the last one. `logprob` is for prompts that ask for it."""
        if self.pending.settled:
            return
        self._count += 1
        if self._count == 1:
            self._first_at = time.monotonic()
        before = self._num_extra
        allowed = self.guide is None or self.guide.take(token)
        is_thought = self._num_extra > before
        if logprob is not None and not is_thought:
            self._total_logprob += logprob.logprob
            if token not in self._special_ids:
                self._logprobs.append(logprob)
        if not allowed:
            # the guide's own mask allowed the token, so the grammar is at fault
            self.pending.fail(InvalidJob("the response format is too complex to enforce"))
        elif token in self._eos_ids:
            self._end("stop")
        elif not is_thought:
            self._append(token)

    @property
    def takes_likeliest(self) -> bool:
        """Whether the next token is simply the likeliest."""
        return self.pending.prompt.params.takes_likeliest and (self.guide is None or self.guide.free)

    @property
    def _num_extra(self) -> int:
        """Tokens before the answer."""
        return self.guide.num_extra if self.guide else 0

    def _append(self, token: int) -> None:
        if token not in self._special_ids and not self._is_before_text(token):
            self._show(token)
        if (self._detokenizer and self._detokenizer.stopped) or (self.guide and self.guide.over):
            self._end("stop")
        elif self._count >= max_tokens(self.pending.prompt.params.max_new_tokens, self.guide):
            self._end("length")

    def _is_before_text(self, token: int) -> bool:
        """Whether a token belongs to the empty lines between a thought and the answer."""
        if self._begun or not self._num_extra:
            return False
        self._begun = bool(self._thought()[1] or decode(self._tokenizer, [token]).strip("\n"))
        return not self._begun

    def _begin(self) -> None:
        self._count = 0
        #: when the first token was there
        self._first_at = 0.0
        self._begun = False
        #: whether `on_text` got what the thought's last token adds to the answer
        self._is_rest_sent = False
        #: of all tokens, and of those that may be part of the text
        self._total_logprob, self._logprobs = 0.0, list[TokenLogprob]()
        #: tokens of the text, where it is decoded at the end
        self._shown: list[int] = []
        prompt = self.pending.prompt
        decodes_at_once = prompt.params.stop or prompt.on_text
        self._detokenizer = Detokenizer(self._tokenizer, prompt.params.stop) if decodes_at_once else None

    def _show(self, token: int) -> None:
        if self._detokenizer is None:
            self._shown.append(token)
        elif (piece := self._detokenizer.add(token)) and self._stream:
            self._stream.write(self._rest() + piece)

    def _end(self, reason: FinishReason) -> None:
        if self.guide and not self.guide.complete:
            limit = f"max_new_tokens={self.pending.prompt.params.max_new_tokens}"
            self.pending.fail(AnswerTooLong(f"the structured answer exceeds {limit}; cut off, it would not parse"))
            return
        reasoning, text = self._finish()
        seen = (self._image_sizes, self._image_tokens)
        made = Completion(
            *(text, reason, self.prompt_tokens, self._count, reasoning, *seen, self.cached_tokens),
            slot_wait_s=self.began - self.pending.since,
            prefill_s=self._first_at - self.began,
            decode_s=time.monotonic() - self._first_at,
        )
        made = replace(made, reasoning_tokens=self._num_extra) if self._num_extra else made
        if self.pending.prompt.params.logprobs:
            logprobs = text_logprobs(self._logprobs, text)
            made = replace(made, logprobs=logprobs, total_logprob=self._total_logprob)
        self.pending.answer(made)

    def _finish(self) -> tuple[str | None, str]:
        """Return the thought, if there is one, and the text; send what is left of the text."""
        last = self._detokenizer.finish() if self._detokenizer else ""
        text = self._detokenizer.text if self._detokenizer else decode(self._tokenizer, self._shown)
        reasoning, rest = self._thought()
        if self._stream:
            self._stream.write(self._rest() + last)
            self._stream.finish()
        return reasoning, rest + text

    def _thought(self) -> tuple[str | None, str]:
        """Return the thought, if there is one, and what its last token adds to the answer."""
        if not isinstance(self.guide, ThoughtGuide):
            return None, ""
        return self.guide.split(self._tokenizer, self._special_ids)

    def _rest(self) -> str:
        """Return what the thought's last token adds to the answer, the first time."""
        rest, self._is_rest_sent = "" if self._is_rest_sent else self._thought()[1], True
        return rest
