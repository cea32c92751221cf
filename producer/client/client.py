"""The synchronous client: submits jobs and waits for their answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, Unpack

from producer.client.capacity import Backoff
from producer.client.job_queue import JobQueue
from producer.client.models import ModelsResource
from producer.client.outage import Unreachable
from producer.client.reply_reader import ReplyReader
from producer.client.resources import BatchesResource, DeadLettersResource, DeprecatedMethods, ImagesResource
from producer.client.sending import current_trace
from producer.client.states import JobState, answer_of
from producer.client.streams import AnswerStream
from producer.client.submission import PreparedJob
from producer.client.timeline import Timeline
from producer.client.url_images import UrlImages
from producer.client.waiters import Waiter, arrived, remaining
from producer.client.window import Window
from producer.client.withdrawals import Withdrawals
from producer.images.shrink import Shrink
from vqa.answer import Answer
from vqa.fetch.settings import FetchSettings
from vqa.jobs.fields import AboutFields, ImageSource
from vqa.jobs.job import Job
from vqa.jobs.lane import Lane
from vqa.ledger.records import State, WorkerInfo
from vqa.results import Outcome
from vqa.settings import QueueSettings


class Client(DeprecatedMethods):
    """Submits jobs through Redis and reads their answers. Thread-safe. Close it, or use it in a `with` statement.

        with Client() as client:
            print(client.ask("cat.jpg", "What is on the mat?").text)

    Settings come from `VQA_` variables unless given, as an object or by name: `Client(redis_url="redis://...")`. Every
    method raises QueueUnavailable if Redis does not answer.

    An image may be a URL where a setting allows it (VQA_FETCH_HOSTS, VQA_FETCH_BUCKETS): it is fetched when its job is
    submitted, which raises BadImage, or ImageUnavailable if another attempt may succeed.

    With `shrink=True`, images in files and bytes are scaled to what the model will see before they are stored, without
    a change of what it sees; `shrink=Shrink(quality=95)` stores JPEG, which is smaller. See docs/images.md.
    """

    def __init__(
        self,
        settings: QueueSettings | None = None,
        *,
        fetch_settings: FetchSettings | None = None,
        shrink: Shrink | bool = False,
        **overrides: Any,
    ) -> None:
        given = settings.model_dump() if settings else {}
        self._queue = JobQueue(QueueSettings(**(given | overrides)), fetch_settings, Shrink.parse(shrink))
        self._replies = ReplyReader(self._queue)
        self._withdrawals = Withdrawals(self._queue)
        self.batches = BatchesResource(self._queue, self.answers)
        self.dead_letters = DeadLettersResource(self._queue)
        self.images = ImagesResource(self._queue)
        self.models = ModelsResource(self._queue)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Open jobs continue, and any client can read their answers.

        Calls that wait in other threads raise RuntimeError.
        """
        self._withdrawals.close()
        self._queue.closing.set()
        self._replies.close()
        self._queue.close()

    @property
    def settings(self) -> QueueSettings:
        return self._queue.settings

    def ask(self, image: ImageSource, question: str, **fields: Unpack[AboutFields]) -> Answer:
        """Submit one question about an image and wait for its answer.

        `fields` are fields of the job (timeout_s, max_new_tokens, lane, ...) and of the image (detail, pages), or with
        video=True of a video (fps, max_frames). Raises the error that the job failed with;
        DeadlineExceeded soon after its timeout, even if no worker is up.
        """
        self._queue.reader.check_source(image)
        return self.answer(self.submit(Job.about(image, question, **fields)))

    def submit(self, job: Job, *, trace: str | None = None) -> str:
        """Put a job on the queue and return its id. Submitting the same id again does not run the job twice.

        `trace` is the caller's W3C traceparent, which workers see; by default that of the OpenTelemetry span that the
        caller is in. Raises QueueFull if the lane, or Redis's memory, is
        full; then the job was not accepted.
        """
        self._queue.submit(job, trace=current_trace() if trace is None else trace)
        return job.id

    def stream(self, job: Job, *, trace: str | None = None) -> AnswerStream:
        """Put a job on the queue and return its answer as an iterator of pieces of text, read while it is generated.

            with client.stream(Job.about("cat.jpg", "What is on the mat?")) as stream:
                for piece in stream:
                    print(piece.text, end="", flush=True)
            print(stream.answer.usage)

        Leaving it early cancels the job. Raises as `submit`.
        """
        try:
            self._queue.submit(job, stream=True, trace=current_trace() if trace is None else trace)
        except Exception:
            raise
        except BaseException:
            # interrupted, perhaps after the job was accepted
            self._withdrawals.withdraw(job.id).result()
            raise
        return AnswerStream(self._queue, self._replies, self._withdrawals, job.id)

    def submit_many(self, jobs: Iterable[Job]) -> list[str]:
        """Put many jobs on the queue, several hundred per round trip; return their ids in order.

        Waits while the queue is full. After an error, the jobs before the failing chunk are on the queue; submitting
        all of them again is harmless. A generator, or another iterator, is read in a thread of its own: so jobs that
        are there are sent even if the next one is long in coming.
        """
        return self._queue.submit_many(jobs)

    def ask_many(self, jobs: Iterable[Job], in_flight: int = 1000) -> Iterator[tuple[str, Outcome]]:
        """Submit jobs and yield (id, outcome) as they end, with at most `in_flight` open at once.

        Jobs are read on demand, so the iterable may be endless, or wait for its jobs: it is read as in `submit_many`,
        and outcomes come meanwhile. Each job ends by its deadline at the latest; one whose image cannot be fetched
        from its URL with that error. Waits while the queue is full, and for up to redis_timeout_s while Redis is
        unreachable.
        """
        images = UrlImages(self._queue.reader, collects=True)
        for outcomes in self._rounds(Window(jobs, in_flight, images, reads_in_thread=True)):
            yield from outcomes

    def _rounds(self, window: Window) -> Iterator[list[tuple[str, Outcome]]]:
        """Yield lists of (id, outcome) that arrived together, and an empty list after half a second without one."""
        backoff = Backoff()
        with closing(window), self._replies.waiting() as waiter:
            while waiter.pending or not window.done:
                while chunk := window.due(len(waiter.pending)):
                    self._offer(chunk, window, backoff, waiter)
                    if window.slow:
                        break
                yield list(window.images.take_failures())
                if waiter.pending or not window.done:
                    self._replies.wait_until(waiter, window.until())
                yield list(arrived(self._queue.backend, waiter))
        # the background thread may have delivered outcomes after the last `arrived`
        yield list(remaining(self._queue.backend, waiter))

    def _offer(self, chunk: Sequence[PreparedJob], window: Window, backoff: Backoff, waiter: Waiter) -> None:
        try:
            with self._replies.outage.exchange(short=False):
                offered = self._queue.offer(chunk)
        except Unreachable as unreachable:
            window.hold(chunk, unreachable.pause_s)
            return
        if offered.rest:
            window.hold(offered.rest, backoff.pause_s(offered, len(chunk)))
        self._replies.add(waiter, offered.accepted_ids(chunk))

    def answer(self, id: str, timeout_s: float | None = None) -> Answer:
        """Wait for the answer to a job that any client submitted.

        Raises the error that the job failed with, UnknownJob, or AnswerTimeout after `timeout_s`. Without a timeout it
        waits until the job's deadline at most.
        """
        [(_, outcome)] = self.answers([id], timeout_s)
        return answer_of(outcome)

    def answers(self, ids: Iterable[str], timeout_s: float | None = None) -> Iterator[tuple[str, Outcome]]:
        """Yield (id, outcome) once for each job as it ends: its answer, or the error that `answer` would raise.

        Jobs that are open after `timeout_s` come last, with AnswerTimeout; without a timeout the wait lasts until their
        deadlines at most. Raises QueueUnavailable once Redis has been unreachable for redis_timeout_s.
        """
        with self._replies.waiting(ids) as waiter:
            for step in waiter.steps(timeout_s):
                if isinstance(step, list):
                    self._replies.look(step)
                else:
                    self._replies.wait_until(waiter, step)
                yield from arrived(self._queue.backend, waiter)
            if waiter.pending:
                self._replies.outage.check()
        yield from remaining(self._queue.backend, waiter)

    def cancel(self, id: str) -> bool:
        """End an open job, waiting or running, with Cancelled; return False if it was not open."""
        return self._queue.cancel(id)

    def states(self, ids: Iterable[str]) -> dict[str, JobState]:
        """Return where each job stands, without waiting."""
        return self._queue.states(list(ids))

    def timeline(self, id: str) -> Timeline:
        """Return what happened to a job and when, as far as Redis still knows it."""
        return self._queue.timeline(id)

    def counts(self) -> dict[Lane, dict[State, int]]:
        """Count the open jobs by lane and state."""
        return self._queue.counts()

    def inbox_length(self) -> int:
        """Count the entries of the inbox that are no jobs yet (docs/wire.md)."""
        return self._queue.inbox_length()

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that are up."""
        return self._queue.workers()

    def image_sizes(self, references: Iterable[str]) -> dict[str, int | None]:
        """Return the sizes of stored images in bytes; None for an image that the store no longer has."""
        return self._queue.image_sizes(list(references))
