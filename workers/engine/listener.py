"""Whoever is told a prompt's answer while it comes: in pieces, each of them once. Knows no model."""

from __future__ import annotations

import logging

from vqa.errors import EngineError
from workers.engine.runtime.pending import Held

log = logging.getLogger(__name__)


class Listener:
    """`Prompt.on_text` of one prompt. What goes wrong with it settles the prompt, and nobody else notices."""

    def __init__(self, held: Held) -> None:
        self._held = held
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
