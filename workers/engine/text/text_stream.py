"""The text of one answer on its way to `Prompt.on_text`."""

from __future__ import annotations

import logging

from vqa.errors import EngineError
from workers.engine.runtime.pending import Pending

log = logging.getLogger(__name__)


class TextStream:
    """Calls `Prompt.on_text` of one prompt; an error in it fails this prompt alone."""

    def __init__(self, pending: Pending) -> None:
        self._pending = pending
        self._sent: list[str] = []
        #: text sent before the prompt was run again and not yet generated again
        self._replay = ""

    def restart(self) -> None:
        """Generate again from the first token: text that was sent is expected again, and not sent twice."""
        self._replay = "".join(self._sent)

    def write(self, piece: str) -> None:
        """Send the next piece of the answer, unless the prompt is settled."""
        if self._pending.settled:
            return
        old, new = piece[: len(self._replay)], piece[len(self._replay) :]
        if not self._replay.startswith(old):
            self._fail_as_changed()
            return
        self._replay = self._replay[len(old) :]
        if new:
            self._sent.append(new)
            self._call(new)

    def finish(self) -> None:
        """Fail the prompt if the answer ended before the text that was already sent."""
        if self._replay:
            self._fail_as_changed()

    def _call(self, piece: str) -> None:
        on_text = self._pending.prompt.on_text
        try:
            if on_text is not None:
                on_text(piece)
        except Exception as error:
            # without the error's message, which may contain the answer
            reason = f"the prompt's on_text callback failed ({type(error).__name__})"
            if self._pending.fail(EngineError(reason)):
                log.warning("prompt %s: %s", self._pending.prompt.id, reason)

    def _fail_as_changed(self) -> None:
        self._pending.fail(EngineError("run again, the prompt got another answer than the one already sent in part"))
