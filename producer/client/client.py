"""The producer's client: submits jobs, and waits for their answers on the one reply list that it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from producer.client.batches import Batch, RowLike, Submission, newest
from producer.client.capacity import Holdup
from producer.client.dead_letters import DeadLetter, Moment, Verdict
from producer.client.job_queue import Link
from producer.client.outage import Away
from producer.client.reply_reader import Mailbox
from producer.client.states import JobState, answer_of
from producer.client.waiters import Wait, Window, arrived, remaining
from vqa.answer import Answer
from vqa.job import ImageSource, Job, Lane
from vqa.ledger.batches import BatchState
from vqa.ledger.records import State, WorkerInfo
from vqa.results import Outcome
from vqa.settings import QueueSettings


class Client:
    """Asks workers through Redis; threads may share one. Close it, or use it in a `with` statement.

        with Client() as client:
            print(client.ask("cat.jpg", "What is on the mat?").text)

    Settings come from `VQA_` variables unless given, whole or by name: `Client(redis_url="redis://...")`. Every method
    raises QueueUnavailable when Redis does not answer.
    """

    def __init__(self, settings: QueueSettings | None = None, **overrides: Any) -> None:
        given = settings.model_dump() if settings else {}
        self._link = Link(QueueSettings(**(given | overrides)))
        self._mailbox = Mailbox(self._link)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back. Jobs that are open go on; their answers can be read by any client.

        Whoever waits in another thread gets RuntimeError.
        """
        self._link.closing.set()
        self._mailbox.close()
        self._link.close(self._mailbox.outage.failing)

    @property
    def settings(self) -> QueueSettings:
        """What this client goes by."""
        return self._link.settings

    def ask(self, image: ImageSource, question: str, **fields: Any) -> Answer:
        """Submit one question about an image and wait for its answer.

        `fields` are the job's: timeout_s, max_new_tokens, lane, ... Raises what the job failed with; DeadlineExceeded
        comes soon after its timeout at the latest, whether workers are up or not.
        """
        return self.answer(self.submit(Job.about(image, question, **fields)))

    def submit(self, job: Job) -> str:
        """Put a job on the queue; its id. The same id again is the same job: it is not run twice.

        Raises QueueFull where its lane, or Redis's memory, is full; then nothing of it was accepted.
        """
        self._link.submit(job)
        return job.id

    def submit_many(self, jobs: Iterable[Job]) -> list[str]:
        """Put many jobs on the queue, several hundred in a round trip; their ids, in order.

        Waits while there is no room. When it raises, the jobs before the failing chunk are on the queue; submitting all
        of them again is harmless.
        """
        return self._link.submit_many(jobs)

    def ask_many(self, jobs: Iterable[Job], in_flight: int = 1000) -> Iterator[tuple[str, Outcome]]:
        """Submit jobs and tell how they ended, as they end, with at most so many open at once.

        The jobs are read as there is room, so there may be any number of them. Each ends by its deadline at the latest.
        Waits while the queue is full, and while Redis is away for up to redis_timeout_s.
        """
        for outcomes in self._rounds(Window(jobs, in_flight)):
            yield from outcomes

    def _rounds(self, window: Window) -> Iterator[list[tuple[str, Outcome]]]:
        """See `ask_many`; all that have come at once, and an empty list where nothing did for half a second."""
        holdup = Holdup()
        with self._mailbox.waiting() as wait:
            while wait.pending or not window.done:
                while chunk := window.due(len(wait.pending)):
                    self._offer(chunk, window, holdup, wait)
                    if window.slow:
                        break
                if wait.pending or not window.done:
                    self._mailbox.turn(wait, window.until())
                yield list(arrived(self._link.backend, wait))
        # another thread may have delivered the last ones after that
        yield list(remaining(self._link.backend, wait))

    def _offer(self, chunk: Sequence[Job], window: Window, holdup: Holdup, wait: Wait) -> None:
        try:
            with self._mailbox.outage.exchange(short=False):
                offered = self._link.offer(chunk)
        except Away as away:
            window.hold(chunk, away.pause_s)
            return
        if offered.rest:
            window.hold(offered.rest, holdup.pause_s(offered, len(chunk)))
        self._mailbox.add(wait, offered.taken_of(chunk))

    def submit_batch(
        self,
        rows: Iterable[RowLike],
        *,
        lane: Lane = "bulk",
        tenant: str | None = None,
        input: str = "",
        within_s: float | None = None,
        **defaults: Any,
    ) -> Batch:
        """Put all rows on the queue as one batch, which goes on without this client.

        A row is a Job, or a mapping with "id", "question" and "image" (or "messages") and further fields of a job;
        `defaults` are fields for rows that do not have them. Rows still open after `within_s` end. Raises QueueFull,
        InvalidJob or BadImage; then none of it is left on the queue.
        """
        return self.batch(Submission(lane, tenant, input, within_s).send(self._link, rows, defaults))

    def batch(self, id: str) -> Batch:
        """A batch by its id, whoever submitted it."""
        return Batch(id, self._link, self.answers)

    def batches(self, limit: int = 100) -> list[BatchState]:
        """The newest batches."""
        return newest(self._link, limit)

    def answer(self, id: str, timeout_s: float | None = None) -> Answer:
        """Wait for the answer to a job, whoever submitted it.

        Raises what the job failed with, UnknownJob, or AnswerTimeout once `timeout_s` is over; without one it waits
        until the job's deadline at most.
        """
        [(_, outcome)] = self.answers([id], timeout_s)
        return answer_of(outcome)

    def answers(self, ids: Iterable[str], timeout_s: float | None = None) -> Iterator[tuple[str, Outcome]]:
        """How jobs ended, each id once, as they end: an answer, or the error that `answer` would raise.

        Ids that are open when `timeout_s` is over come last, with AnswerTimeout; without one the wait lasts until the
        jobs' deadlines at most. A Redis that is away is waited for, up to redis_timeout_s, before QueueUnavailable.
        """
        with self._mailbox.waiting(ids) as wait:
            for step in wait.steps(timeout_s):
                if isinstance(step, list):
                    self._mailbox.look(step)
                else:
                    self._mailbox.turn(wait, step)
                yield from arrived(self._link.backend, wait)
            if wait.pending:
                self._mailbox.outage.check()
        yield from remaining(self._link.backend, wait)

    def cancel(self, id: str) -> bool:
        """End an open job with Cancelled, waiting or running; False where it is not open."""
        return self._link.cancel(id)

    def states(self, ids: Iterable[str]) -> dict[str, JobState]:
        """Where each job stands, without waiting."""
        return self._link.states(list(ids))

    def counts(self) -> dict[Lane, dict[State, int]]:
        """How many jobs are open, by lane and state."""
        return self._link.counts()

    def workers(self) -> list[WorkerInfo]:
        """The workers that are up."""
        return self._link.workers()

    def dead_letters(
        self,
        reason: str | None = None,
        since: Moment | None = None,
        before: Moment | None = None,
        limit: int | None = 100,
    ) -> list[DeadLetter]:
        """The dead letters, the newest first: jobs that were given up, and messages that were no jobs.

        `since` and `before` are points in time or timedeltas, so long ago on Redis's clock. None is no limit.
        """
        with self._link.dead_letters() as dead:
            return dead.newest(reason, since, before, limit)

    def dead_letter(self, id: str) -> DeadLetter | None:
        """The dead letter of that id; None where there is none."""
        with self._link.dead_letters() as dead:
            return dead.read([id]).get(id)

    def count_dead(self) -> int:
        """How many dead letters there are."""
        with self._link.dead_letters() as dead:
            return dead.count(self.settings.dead_ttl_s)

    def retry_dead(self, ids: Iterable[str]) -> dict[str, Verdict]:
        """Make dead letters jobs again, with their ids and pasts, their timeouts anew and attempts from 0.

        Their old outcomes are deleted, so `answer` waits for the new ones. Says of each id what became of it.
        """
        with self._link.dead_letters() as dead:
            return dead.retry(ids)

    def purge_dead(self, ids: Iterable[str]) -> int:
        """Drop dead letters; how many there were. Their outcomes are kept until they expire."""
        with self._link.dead_letters() as dead:
            return dead.purge(ids)

    def image_sizes(self, references: Iterable[str]) -> dict[str, int | None]:
        """Bytes of the images of those references; None where the image store does not have it any more."""
        return self._link.image_sizes(list(references))
