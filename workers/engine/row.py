"""One row of a microbatch: the tokens that one prompt has got so far, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from vqa.answer import FinishReason
from workers.engine.base import Completion
from workers.engine.encoding import Encoded
from workers.engine.held import Held


class Row:
    """A prompt while it is decoded; settles its future at its own last token, not at its microbatch's.

    Of its tokens the one that ends the text is counted and not shown.
    """

    def __init__(self, held: Held, encoded: Encoded, tokenizer: Any, end_ids: Collection[int]) -> None:
        self.held = held
        self.encoded = encoded
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._unseen_ids = frozenset(tokenizer.all_special_ids)
        #: tokens so far, and those of them that are text
        self._count = 0
        self._shown: list[int] = []
        # a token of text is at least one byte; some bytes more may belong to the character before
        self._tail = max((len(stop.encode()) for stop in held.prompt.stop), default=0) + 4

    def restart(self) -> None:
        """Forget the tokens: the microbatch failed and the prompt is run again."""
        self._count = 0
        self._shown.clear()

    def add(self, token: int) -> None:
        """Take the next token, and end where it is the last one."""
        if self.held.settled:
            return
        self._count += 1
        if token in self._end_ids:
            self._end("stop")
            return
        if token not in self._unseen_ids:
            self._shown.append(token)
        if self._has_stop():
            self._end("stop")
        elif self._count >= self.held.prompt.max_new_tokens:
            self._end("length")

    def _end(self, reason: FinishReason) -> None:
        text = self._text(self._shown)
        found = [at for stop in self.held.prompt.stop if (at := text.find(stop)) >= 0]
        self.held.answer(
            Completion(
                text=text[: min(found)] if found else text,
                finish_reason="stop" if found else reason,
                prompt_tokens=self.encoded.prompt_tokens,
                completion_tokens=self._count,
            )
        )

    def _has_stop(self) -> bool:
        stops = self.held.prompt.stop
        if not stops:
            return False
        newest = self._text(self._shown[-self._tail :])
        return any(stop in newest for stop in stops)

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens))


class RowEnds(StoppingCriteria):
    """Tells `generate` after each step which rows have ended: by token, stop string, length, deadline, cancellation.

    `on_step` is called first: the step was made.
    """

    def __init__(self, rows: Sequence[Row], on_step: Callable[[], None]) -> None:
        self._rows = rows
        self._on_step = on_step

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """One bool a row."""
        newest = input_ids[:, -1].tolist()
        # only now: reading the tokens waits for the card
        self._on_step()
        for row, token in zip(self._rows, newest, strict=True):
            row.add(token)
        return torch.tensor([row.held.settled for row in self._rows], device=input_ids.device)
