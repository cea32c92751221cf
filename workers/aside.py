"""Where a message goes that no worker can use: among the dead letters. Its sender is told where that can be."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

from vqa.errors import InvalidJob
from vqa.job import LANES, Lane
from vqa.ledger.closing import Closing
from vqa.ledger.ledger import ASIDE_BYTES
from workers.consumer.sanitize import Malformed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetAside:
    """Called with the message, its list and what is wrong with it. Raises one of connection.UNREACHED."""

    closing: Closing

    def __call__(self, raw: bytes, queue: str, malformed: Malformed) -> None:
        """Keep it as a dead letter."""
        reason = f"malformed: {malformed.reason}"
        lane: Lane = next((lane for lane in LANES if lane == queue), "bulk")
        id = malformed.id
        if id is None or not self._tell(id, lane, raw, reason):
            id = f"malformed-{hashlib.sha256(raw).hexdigest()[:12]}"
            self.closing.ledger.set_aside(id, lane, raw, reason)
        log.error("a message on %s is set aside as %s: %s", queue, id, malformed.reason)

    def _tell(self, id: str, lane: Lane, raw: bytes, reason: str) -> bool:
        """End the job that it should have been, which nobody knows, so that whoever waits for it is told."""
        if self.closing.ledger.accept(id, lane, raw[:ASIDE_BYTES], 60) != "accepted":
            return False
        return self.closing.close(id, InvalidJob(reason), reason)
