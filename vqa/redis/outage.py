"""Says in the log of a worker or a gateway that Redis does not answer, and why."""

from __future__ import annotations

import logging
import socket
import time

from redis.sentinel import MasterNotFoundError

from vqa.redis.error_replies import describe
from vqa.redis.retry import causes
from vqa.settings import QueueSettings

log = logging.getLogger(__name__)

#: seconds between two log lines while Redis does not answer
_LOG_EVERY_S = 30.0


class RedisOutage:
    """Says in the log that Redis does not answer: at once, and then every half a minute."""

    def __init__(self, settings: QueueSettings) -> None:
        self._where = settings.address.where
        self._since: float | None = None
        self._silent_until = 0.0

    def failed(self, error: BaseException) -> None:
        """A call has failed."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now >= self._silent_until:
            self._silent_until = now + _LOG_EVERY_S
            log.warning("waiting for %s: %s (VQA_REDIS_URL)", self._where, _reason(error))

    def answered(self) -> None:
        """A call has succeeded."""
        if self._since is not None:
            log.info("%s answers after %.0f s", self._where, time.monotonic() - self._since)
            self._since, self._silent_until = None, 0.0


def _reason(error: BaseException) -> str:
    for cause in causes(error):
        if isinstance(cause, socket.gaierror):
            return "its host name is unknown"
        if isinstance(cause, MasterNotFoundError):
            return "no Sentinel answers and knows a master of this name"
    # redis-py's own words, such as `Error 111 connecting to ...`, name the address a second time
    said = next((cause.strerror for cause in causes(error) if isinstance(cause, OSError) and cause.strerror), "")
    return said or describe(error)
