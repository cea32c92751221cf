"""Writes the text of answers to Redis while the engine generates it, for jobs whose client reads it.

One thread writes for all jobs of the process, so that the engine's thread never waits for Redis. What is lost does no
harm: each portion says where it begins, and the client gets the rest of the text from the outcome.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from redis import Redis
from redis.exceptions import RedisError

from vqa.ledger.commands import REPLY_TTL_MS
from vqa.ledger.records import Lease
from vqa.ledger.text_stream import STREAM_TTL_MS, Portion, stream_key
from vqa.redis.error_replies import describe, is_temporary, is_wrong_type
from workers.jobs.text_buffer import Buffer, OnShow

log = logging.getLogger(__name__)

#: seconds between two rounds of writing; only a job's first piece is written at once
ROUND_S = 0.03

#: seconds before a round that failed is tried again
_PAUSE_S = 0.5

#: seconds between two log lines about text that is not streamed
_LOG_EVERY_S = 30.0

#: seconds that `stop` waits for the thread
_JOIN_S = 1.0

#: most ids on a reply list, as in the ledger's script
_MOST_REPLIES = 100_000


#: called by the engine's thread with each piece of the text
OnText = Callable[[str], None]


class TextWriter:
    """Writes what the buffers hold: a job's first piece at once, later text in rounds."""

    def __init__(self, redis: Redis) -> None:
        """Use a `redis` with short timeouts and no retries."""
        self._redis = redis
        #: buffers with new text
        self._marked: deque[Buffer] = deque()
        self._wake = threading.Event()
        #: whether the thread waits for any text; else it looks by itself when the next round is due
        self._idle = False
        self._stopping = threading.Event()
        self._silent_until = 0.0
        self._thread = threading.Thread(target=self._run, name="text-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    @contextmanager
    def writing(self, lease: Lease, on_show: OnShow | None = None) -> Iterator[OnText | None]:
        """Give the prompt's `on_text`; None if nobody streams the job. Only what `on_show` returns is written.

        What is not written at the end is dropped: the outcome is about to follow, and has it.
        """
        if not lease.header.stream:
            yield None
            return
        buffer = Buffer(lease, on_show)
        try:
            yield partial(self._append, buffer)
        finally:
            buffer.closed = True

    def _append(self, buffer: Buffer, piece: str) -> None:
        """Take a piece from the engine's thread, which must not wait: no locks that are held during a write."""
        buffer.append(piece)
        if not buffer.marked:
            buffer.marked = True
            self._marked.append(buffer)
            # in this order: the thread says that it is idle, then looks at `_marked`
            if self._idle or not buffer.begun:
                self._wake.set()

    def _run(self) -> None:
        #: with text to write
        waiting: dict[Buffer, None] = {}
        due = 0.0
        while not self._stopping.is_set():
            self._wait(due if waiting else None)
            while self._marked:
                waiting[self._marked.popleft()] = None
            now = time.monotonic()
            round = [buffer for buffer in waiting if now >= due or not buffer.begun]
            if now >= due:
                due = now + ROUND_S
            for buffer in round:
                del waiting[buffer]
            failed = self._try_write(round)
            if failed:
                waiting |= dict.fromkeys(failed)
                self._stopping.wait(_PAUSE_S)

    def _wait(self, due: float | None) -> None:
        """Wait until the time `due`, or for text if it is None; a job's first piece ends the wait."""
        self._idle = due is None
        if due is not None:
            self._wake.wait(max(0.0, due - time.monotonic()))
        elif not self._marked:
            self._wake.wait()
        self._idle = False
        self._wake.clear()

    def _try_write(self, buffers: Sequence[Buffer]) -> list[Buffer]:
        """Write the buffers' text; return those whose text has to be written again."""
        taken = [(buffer, portion) for buffer in buffers if (portion := buffer.take())]
        if not taken:
            return []
        try:
            replies = self._send(taken)
        except RedisError as error:
            self._say("text is not streamed for the moment: %s", error)
            return [buffer for buffer, _ in taken]
        except Exception:
            # never end this thread; without these portions the clients get the text with the outcome
            log.exception("text of %d jobs is not streamed", len(taken))
            for buffer, _ in taken:
                buffer.closed = True
            return []
        return [buffer for (buffer, _), reply in zip(taken, replies, strict=True) if not self._settle(buffer, reply)]

    def _send(self, taken: Sequence[tuple[Buffer, Portion]]) -> list[object]:
        clients: dict[str, list[str]] = {}
        # no transaction: Redis refuses one when its memory is full
        with self._redis.pipeline(transaction=False) as pipe:
            for buffer, portion in taken:
                pipe.xadd(stream_key(buffer.id), portion.fields())
                clients.setdefault(buffer.reply, []).append(buffer.id)
            for buffer, _ in taken:
                pipe.pexpire(stream_key(buffer.id), STREAM_TTL_MS)
            for reply, ids in clients.items():
                if reply:
                    pipe.rpush(reply, *ids)
                    pipe.ltrim(reply, -_MOST_REPLIES, -1)
                    pipe.pexpire(reply, REPLY_TTL_MS)
            return list(pipe.execute(raise_on_error=False)[: len(taken)])

    def _settle(self, buffer: Buffer, reply: object) -> bool:
        """Note what became of a portion; return False if it has to be written again."""
        if not isinstance(reply, Exception):
            buffer.written()
        elif is_temporary(reply) and not is_wrong_type(reply):
            self._say("text is not streamed for the moment: %s", reply)
            return False
        else:
            self._say("the rest of an answer is not streamed: %s", reply)
            buffer.closed = True
        return True

    def _say(self, what: str, error: Exception) -> None:
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _LOG_EVERY_S
            log.warning(what, describe(error))
