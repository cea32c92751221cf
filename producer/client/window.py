"""The jobs of one caller that may be open at once, read from its iterable on demand. No I/O but the images' by URL."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from producer.client.submission import CHUNK, CHUNK_WAIT_S, PreparedJob, arriving_chunks, chunks
from producer.client.url_images import UrlImages
from producer.client.waiters import SHORTEST_BLOCK_S, next_poll
from vqa.jobs.job import Job


class Window:
    """Limits how many jobs are open: a chunk is due while fewer than `in_flight` are; no job is read before that."""

    def __init__(
        self,
        jobs: Iterable[Job | PreparedJob | None],
        in_flight: int,
        images: UrlImages,
        *,
        reads_in_thread: bool = False,
    ) -> None:
        """`images` fetches what the jobs name by URL, and collects the failures. None: no job has come for a while.

        With `reads_in_thread`, jobs may come slowly although they do not say so: see `arriving_chunks`.
        """
        self.images = images
        self._chunk_size = min(CHUNK, max(1, in_flight // 4))
        split = arriving_chunks if reads_in_thread else _first_alone
        self._chunks = images.ready(split(jobs, self._chunk_size))
        self._in_flight = in_flight
        self._exhausted = False
        self._held: Sequence[PreparedJob] = ()
        #: monotonic time when the held jobs are due again
        self._held_until = 0.0
        #: whether jobs are read more slowly than they are sent
        self.slow = False

    @property
    def done(self) -> bool:
        """Whether every job has been handed out."""
        return self._exhausted and not self._held

    def due(self, open_jobs: int) -> Sequence[PreparedJob]:
        """Return the jobs to submit while `open_jobs` are open: none if it is full, held, empty or exhausted."""
        self.slow = False
        if self._held:
            held, self._held = (self._held, ()) if time.monotonic() >= self._held_until else ((), self._held)
            return held
        if self._exhausted or open_jobs > self._in_flight - self._chunk_size:
            return ()
        started = time.monotonic()
        chunk = next(self._chunks, None)
        self.slow = chunk == [] or time.monotonic() - started >= CHUNK_WAIT_S
        self._exhausted = chunk is None
        return chunk or ()

    def close(self) -> None:
        """Let go of the source, though a traceback may keep this window."""
        self._chunks.close()

    def widen(self, in_flight: int) -> None:
        self._in_flight = in_flight

    def hold(self, jobs: Sequence[PreparedJob], pause_s: float) -> None:
        """Take back jobs that could not be submitted; they are due again after the pause."""
        self._held, self._held_until = jobs, time.monotonic() + pause_s

    def until(self) -> float:
        """Return the monotonic time until which the caller may wait for answers before it calls `due` again."""
        if self.slow:
            return time.monotonic() + SHORTEST_BLOCK_S
        return min(next_poll(), self._held_until) if self._held else next_poll()


def _first_alone(jobs: Iterable[Job | PreparedJob | None], limit: int) -> Iterator[list[PreparedJob]]:
    """Split jobs; the first goes alone, because the second may be slow to come."""
    jobs = iter(jobs)
    return chain(chunks(islice(jobs, 1)), chunks(jobs, limit))
