"""What a worker process takes from Celery's lists: sifted, not while Redis refuses writes, and nothing once it leaves.

One object a process, for all connections that Celery makes one after the other, on the consumer's thread alone; only
`stop` may come from any thread.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import OutOfMemoryError

from vqa.connection import UNREACHED
from vqa.errors import InvalidJob
from vqa.job import LANES, Lane
from vqa.ledger.closing import Closing
from vqa.ledger.ledger import ASIDE_BYTES
from vqa.redis_retry import passes
from workers.consumer.sanitize import Malformed, sift
from workers.engine.fair_share import Reserve


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


log = logging.getLogger(__name__)

#: a message that no worker can use, the list that it came from, and what is wrong with it; raises one of UNREACHED
Aside = Callable[[bytes, str, Malformed], None]

#: after a refusal of Redis nothing is popped for so long
_PAUSE_S = 1.0
#: one line a trouble, not one a try
_QUIET_S = 30.0


class Intake:
    """Open, or shut for a moment, or stopped for good."""

    def __init__(self, aside: Aside) -> None:
        self._aside = aside
        #: what bulk leaves free of what this worker takes; set before the first connection is made
        self.reserve = Reserve()
        self._stopped = threading.Event()
        self._shut_until = 0.0
        self._quiet_until = 0.0
        #: popped, and neither delivered nor written down elsewhere: they go back to their lists
        self.in_hand: deque[tuple[str, bytes]] = deque()

    def stop(self) -> None:
        """Pop no further message; one that is being popped goes back to its list. For good."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    @property
    def shut(self) -> bool:
        """Whether Redis refused something a moment ago."""
        return time.monotonic() < self._shut_until

    def pop(self, queue: str, raw: bytes) -> bytes | None:
        """The popped message made safe; None where there is nothing to deliver."""
        if self.stopped:
            self.hold(queue, raw)
            return None
        found = sift(raw, queue)
        if isinstance(found, bytes):
            return found
        self.set_aside(raw, queue, found)
        return None

    def set_aside(self, raw: bytes, queue: str, malformed: Malformed) -> None:
        """Keep it where people can look at it; where Redis does not take it now, it is popped once more later."""
        try:
            self._aside(raw, queue, malformed)
        except Exception as error:
            if isinstance(error, UNREACHED) and (passes(error) or isinstance(error, OutOfMemoryError)):
                self.hold(queue, raw)
                self.refused(error)
                return
            log.error(
                "a malformed message on %s is lost (%s), it could not be kept: %s",
                queue,
                malformed.reason,
                _said(error),
            )

    def hold(self, queue: str, raw: bytes) -> None:
        """Keep it in memory until Redis takes it back. A job whose message ends with this process is found as such."""
        self.in_hand.append((queue, raw))

    def put_back(self, redis: Redis) -> None:
        """What is in hand, to where it is popped next. Raises one of UNREACHED, and the rest stays in hand."""
        while self.in_hand:
            queue, raw = self.in_hand[0]
            redis.rpush(queue, raw)
            self.in_hand.popleft()

    def refused(self, error: BaseException) -> None:
        """Redis did not do what it was asked: nothing is popped for a moment."""
        now = time.monotonic()
        self._shut_until = now + _PAUSE_S
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_S
            log.warning("Redis refuses (%s): no message is taken meanwhile", _said(error))

    def wait(self) -> None:
        """Until it is not shut any more; at most a second or so."""
        time.sleep(max(0.0, self._shut_until - time.monotonic()))


def _said(error: BaseException) -> str:
    """The error in a line: of a pipeline's without the command, which holds a user's words."""
    words = str(error).rpartition("caused error: ")[2] if isinstance(error, UNREACHED) else ""
    return f"{type(error).__name__}: {words}"[:200]
