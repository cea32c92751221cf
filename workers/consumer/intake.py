"""What a worker process takes from Celery's lists: sanitized messages, none while Redis refuses writes or after `stop`.

A process has one Intake for all connections that Celery opens one after the other. Only the consumer's thread uses it,
except for `stop`, which any thread may call.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from redis import Redis
from redis.exceptions import OutOfMemoryError

from vqa.redis.connection import REDIS_ERRORS
from vqa.redis.error_replies import describe, is_temporary
from workers.consumer.sanitize import MalformedMessage, sanitize
from workers.engine.fair_share import Reserve
from workers.settings import MESSAGE_MAX_BYTES

log = logging.getLogger(__name__)

#: called with a message, the list it was popped from and what is wrong with it; raises one of REDIS_ERRORS
WriteDeadLetter = Callable[[bytes, str, MalformedMessage], None]

#: pause in popping after Redis refused a command
_PAUSE_S = 1.0
#: a lasting refusal is logged once in this time
_LOG_EVERY_S = 30.0


class Intake:
    """Open, paused for a second, or stopped for good."""

    def __init__(self, write_dead_letter: WriteDeadLetter, max_bytes: int = MESSAGE_MAX_BYTES) -> None:
        self._write_dead_letter = write_dead_letter
        self._max_bytes = max_bytes
        #: limits how many bulk messages this worker takes; set before the first connection is made
        self.reserve = Reserve()
        #: how many messages this worker may hold now; None for as many as it has threads
        self.most_held: Callable[[], int] | None = None
        self._stopped = threading.Event()
        self._paused_until = 0.0
        self._silent_until = 0.0
        #: (list, message) pairs that were popped, are stored nowhere else and have to return to their lists
        self.held: deque[tuple[str, bytes]] = deque()

    def stop(self) -> None:
        """Pop nothing more; a message that is being popped returns to its list."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    @property
    def paused(self) -> bool:
        """Whether Redis refused a command within the last second."""
        return time.monotonic() < self._paused_until

    def receive(self, queue: str, raw: bytes) -> bytes | None:
        """Return a popped message in sanitized form, or None if there is nothing to deliver."""
        if self.stopped:
            self.hold(queue, raw)
            return None
        message = sanitize(raw, queue, self._max_bytes)
        if isinstance(message, bytes):
            return message
        self.dead_letter_message(raw, queue, message)
        return None

    def dead_letter_message(self, raw: bytes, queue: str, malformed: MalformedMessage) -> None:
        """Keep a malformed message as a dead letter; if Redis refuses for now, return it to its list to try again."""
        try:
            self._write_dead_letter(raw, queue, malformed)
        except Exception as error:
            if isinstance(error, REDIS_ERRORS) and (is_temporary(error) or isinstance(error, OutOfMemoryError)):
                self.hold(queue, raw)
                self.pause_after(error)
                return
            lost = "malformed message on %s (%s) is lost, writing its dead letter failed: %s"
            log.error(lost, queue, malformed.reason, describe(error))

    def hold(self, queue: str, raw: bytes) -> None:
        """Keep a message in memory until Redis takes it back.

        If the process ends before that, the janitor finds that the job has lost its message.
        """
        self.held.append((queue, raw))

    def return_held(self, redis: Redis) -> None:
        """Push held messages to the end of their lists that is popped next.

        Raises one of REDIS_ERRORS and keeps the messages that were not pushed.
        """
        while self.held:
            queue, raw = self.held[0]
            redis.rpush(queue, raw)
            self.held.popleft()

    def pause_after(self, error: BaseException) -> None:
        """Pop nothing for a second, because Redis refused a command with this error."""
        now = time.monotonic()
        self._paused_until = now + _PAUSE_S
        if now >= self._silent_until:
            self._silent_until = now + _LOG_EVERY_S
            log.warning("Redis refuses commands (%s): no messages are taken until it accepts them", describe(error))

    def wait(self) -> None:
        time.sleep(max(0.0, self._paused_until - time.monotonic()))
