"""One row of a microbatch or of a step: the tokens that one prompt has got so far, and when it ends. Knows no model."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from vqa.answer import FinishReason
from vqa.errors import AnswerTooLong, EngineError, InvalidJob
from workers.engine.base import Completion
from workers.engine.runtime.pending import Pending
from workers.engine.text.detokenizer import Detokenizer, decode
from workers.engine.text.grammar import Guide

log = logging.getLogger(__name__)


class TextStream:
    """`Prompt.on_text` of one prompt. What goes wrong with it settles the prompt, and nobody else notices."""

    def __init__(self, pending: Pending) -> None:
        self._held = pending
        self._told: list[str] = []
        #: what was told before the prompt was run again, and has not come again yet
        self._again = ""

    def restart(self) -> None:
        """The prompt is run again from its first token: what was told is to come again, and is not told twice."""
        self._again = "".join(self._told)

    def tell(self, piece: str) -> None:
        """Tell the next piece, unless the prompt has ended."""
        if self._held.settled:
            return
        old, new = piece[: len(self._again)], piece[len(self._again) :]
        if not self._again.startswith(old):
            self._fail_as_another()
            return
        self._again = self._again[len(old) :]
        if new:
            self._told.append(new)
            self._call(new)

    def finish(self) -> None:
        """Every piece has come."""
        if self._again:
            self._fail_as_another()

    def _call(self, piece: str) -> None:
        on_text = self._held.prompt.on_text
        try:
            if on_text is not None:
                on_text(piece)
        except Exception as error:
            # not its words: they may hold the answer's
            reason = f"what listens to its answer failed ({type(error).__name__})"
            if self._held.fail(EngineError(reason)):
                log.warning("prompt %s: %s", self._held.prompt.id, reason)

    def _fail_as_another(self) -> None:
        self._held.fail(EngineError("run again, the prompt got another answer than the one that was told in part"))


class Generation:
    """A prompt while it is decoded; settles its future at its own last token, not at its microbatch's.

    Of its tokens the one that ends the text is counted and not shown. Nothing is decoded before the end where nobody
    listens and no stop string is given.
    """

    def __init__(
        self, pending: Pending, prompt_tokens: int, tokenizer: Any, eos_ids: Collection[int], guide: Guide | None = None
    ) -> None:
        """`guide` is what its tokens have been chosen by."""
        self.pending = pending
        self.guide = guide
        self.prompt_tokens = prompt_tokens
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._unseen_ids = frozenset(tokenizer.all_special_ids)
        self._listener = TextStream(pending) if pending.prompt.on_text else None
        self._begin()

    def restart(self) -> None:
        """Forget the tokens: the microbatch failed and the prompt is run again."""
        self._begin()
        if self.guide:
            self.guide.restart()
        if self._listener:
            self._listener.restart()

    def add(self, token: int) -> None:
        """Take the next token, and end where it is the last one."""
        if self.pending.settled:
            return
        self._count += 1
        if self.guide and not self.guide.take(token):
            # the token came of its mask, so it is the grammar that went wrong
            self.pending.fail(InvalidJob("the response format is too complex to be kept to"))
        elif token in self._eos_ids:
            self._end("stop")
        else:
            self._go_on(token)

    def _go_on(self, token: int) -> None:
        if token not in self._unseen_ids:
            self._show(token)
        if (self._spelling and self._spelling.stopped) or (self.guide and self.guide.over):
            self._end("stop")
        elif self._count >= self.pending.prompt.params.max_new_tokens:
            self._end("length")

    def _begin(self) -> None:
        #: tokens so far, and those of them that are text; spelled at once where somebody needs it
        self._count = 0
        self._shown: list[int] = []
        prompt = self.pending.prompt
        self._spelling = (
            Detokenizer(self._tokenizer, prompt.params.stop) if prompt.params.stop or prompt.on_text else None
        )

    def _show(self, token: int) -> None:
        if self._spelling is None:
            self._shown.append(token)
        elif (piece := self._spelling.add(token)) and self._listener:
            self._listener.tell(piece)

    def _end(self, reason: FinishReason) -> None:
        if self.guide and not self.guide.complete:
            most = f"max_new_tokens={self.pending.prompt.params.max_new_tokens}"
            self.pending.fail(AnswerTooLong(f"the structured answer did not fit {most}; cut, it does not parse"))
            return
        text = self._finish(self._spelling) if self._spelling else decode(self._tokenizer, self._shown)
        self.pending.answer(
            Completion(
                text=text,
                finish_reason=reason,
                prompt_tokens=self.prompt_tokens,
                completion_tokens=self._count,
            )
        )

    def _finish(self, spelling: Detokenizer) -> str:
        last = spelling.finish()
        if self._listener:
            self._listener.tell(last)
            self._listener.finish()
        return spelling.text
