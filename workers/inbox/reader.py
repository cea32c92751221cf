"""The thread in every worker process that reads the inbox, from `start` to `drain`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from redis.exceptions import RedisError

from vqa.redis.connection import REDIS_ERRORS
from vqa.redis.error_replies import describe
from workers.inbox.accept import Acceptance
from workers.inbox.entry import Entry
from workers.inbox.stream import InboxStream, Position, is_reply

log = logging.getLogger(__name__)

#: entries, and bytes if they are as large as the last ones, in one call: all are in memory at once
_COUNT, _BYTES = 16, 16 * 2**20

#: longest wait of one call for new entries; a drain waits for it
_WAIT_S = 1.0

#: pause after an error, or while a lane is full
_PAUSE_S = 0.5
#: a lasting error is logged once in this time
_LOG_EVERY_S = 30.0


class InboxReader:
    """Reads entries, accepts their jobs, deletes the entries. Until then Redis keeps them for this worker."""

    def __init__(self, stream: InboxStream, acceptance: Acceptance, lease_s: float, redis_timeout_s: float) -> None:
        """A worker that has held entries for `lease_s` seconds loses them to another."""
        self._stream = stream
        self._acceptance = acceptance
        self._lease_s = lease_s
        self._wait_s = min(_WAIT_S, redis_timeout_s / 2)
        #: an earlier process of this name may have left some. The first call reads one entry, which may be huge
        self._position: Position = "0"
        self._count = 1
        self._claim_at = 0.0
        self._silent_until = 0.0
        self._draining = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def drain(self) -> None:
        """Read nothing more; what is being read is still accepted."""
        self._draining.set()

    def stop(self) -> None:
        """Wait a moment for the end of the current round."""
        self.drain()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * self._wait_s)

    def _run(self) -> None:
        while not self._draining.is_set():
            try:
                if not self.round(self._wait_s):
                    self._warn("a lane is full: further jobs wait in the inbox (VQA_QUEUE_MOST)")
                    self._draining.wait(_PAUSE_S)
            except REDIS_ERRORS as error:
                self._failed(error)
            except Exception:
                # never end this thread: no worker would read the inbox
                log.exception("reading the inbox failed; trying again")
                self._draining.wait(_PAUSE_S)
        try:
            self._stream.leave()
        except RedisError as error:
            log.debug("this worker stays in the inbox's group: %s", describe(error))

    def _failed(self, error: Exception) -> None:
        # whatever the call read is this worker's, although it did not arrive
        self._position = "0"
        if is_reply(error, "NOGROUP"):
            try:
                return self._stream.create()
            except RedisError as failure:
                error = failure
        self._warn(f"the inbox is not read: {describe(error)}; trying again")
        self._draining.wait(_PAUSE_S)

    def round(self, wait_s: float) -> bool:
        """Handle the next few entries, waiting for new ones; return False if a lane is full.

        Raises one of REDIS_ERRORS.
        """
        self._claim()
        entries = self._stream.read(self._position, self._count, wait_s if self._position == ">" else 0)
        if not entries:
            self._position = ">"
            return True
        self._count = max(1, min(_COUNT, _BYTES // max(1, *(entry.size for entry in entries))))
        handled = self._handle(entries)
        self._stream.delete([entry.id for entry in entries if entry.id in handled])
        if is_full := len(handled) < len(entries):
            self._position = "0"
        return not is_full

    def _handle(self, entries: Sequence[Entry]) -> set[str]:
        """Accept or refuse the jobs of entries; return the ids of entries to delete."""
        # one without fields was deleted after it was read
        gone = {entry.id for entry in entries if not entry.fields}
        accepted = self._acceptance.accept([entry for entry in entries if entry.id not in gone])
        for refusal in accepted.refused:
            log.warning("inbox entry %s is refused: %s: %s", refusal.entry, refusal.error.code(), refusal.error)
        if accepted.refused:
            self._stream.report(accepted.refused)
        return {*gone, *accepted.done, *(refusal.entry for refusal in accepted.refused)}

    def _claim(self) -> None:
        """From time to time, take over the entries of workers that vanished."""
        if time.monotonic() < self._claim_at:
            return
        self._claim_at = time.monotonic() + self._lease_s / 3
        if self._stream.claim(self._lease_s):
            self._position = "0"
        self._stream.forget_vanished()

    def _warn(self, said: str) -> None:
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _LOG_EVERY_S
            log.warning(said)
