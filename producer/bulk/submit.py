"""`vqa submit`: keep a bounded number of jobs on the queue and write their outcomes to OUT and ERR."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import chain

from producer.bulk.image_loader import PendingRow
from producer.bulk.output.formats import Failure
from producer.bulk.output.review import is_doubtful, review_line
from producer.bulk.plan import Plan
from producer.bulk.session import Session
from producer.bulk.summary import Progress, progress_bar, summary_lines
from producer.client.url_images import UrlImages
from producer.client.window import Window
from producer.process import NOT_ALL, TEMPORARY, USAGE, Stopped
from vqa.answer import Answer
from vqa.errors import DeadlineExceeded, JobGivenUp, QueueUnavailable, UnknownJob
from vqa.ledger.batch_state import EXPIRED_CODE
from vqa.results import Outcome

#: jobs in flight per slot of the workers, and the bounds of their number
_PER_SLOT = 4
_MIN_IN_FLIGHT, _MAX_IN_FLIGHT = 256, 5000

#: seconds after Ctrl-C within which open jobs are cancelled
_CANCEL_S = 5.0

#: seconds between two looks at the workers
_WORKERS_INTERVAL_S = 10.0


def submit(plan: Plan) -> int:
    """Submit the rows, wait for their outcomes, and return the exit status.

    Raises SettingsError, QueueUnavailable and OSError.
    """
    with ExitStack() as stack:
        session = Session(plan, stack)
        if session.fails_strict():
            return USAGE
        show = stack.enter_context(progress_bar(plan.quiet, among_answers=plan.out is None))
        run = _Run(session, show)
        try:
            run.run()
        except (Stopped, QueueUnavailable) as why:
            run.explain_interruption(why)
            raise
        stack.close()
        return run.summarize()


class _Run:
    """One run, from the first row to the last outcome."""

    def __init__(self, session: Session, show: Progress) -> None:
        self._session = session
        self._plan = session.plan
        self._client = session.client
        self._output = session.output
        self._writer = session.writer
        self._reporter = session.reporter
        self._builder = session.builder
        self._show = show
        #: jobs whose lines are not committed yet
        self._uncommitted: list[str] = []
        #: jobs whose lines are durable, so that their outcomes may be deleted
        self._committed: list[str] = []
        #: slots by worker name
        self._slots: dict[str, int] = {**self._output.record.slots}
        self._workers_checked = 0.0
        self._started = time.monotonic()
        #: rows whose jobs Redis no longer knows
        self._lost = 0

    def run(self) -> None:
        """Send the rows that have no line yet, and write their outcomes."""
        if self._plan.within_s is not None:
            self._builder.deadline = self._output.record.began + self._plan.within_s
        rows = self._builder.pending_rows()
        first = next(filter(None, rows), None)
        if first is not None:
            deadline = self._builder.deadline
            self._session.start_batch(None if deadline is None else max(0.001, deadline - time.time()))
            self._session.forecast.start()
            # an earlier run may have ended before it deleted these outcomes
            self._committed += self._writer.recent_ids
            self._send(chain([first], rows))
        self._reporter.finalize()
        self._writer.finish()
        self._delete_outcomes()
        totals = self._writer.totals
        self._reporter.seal((totals.answered, totals.codes))
        if self._output.sidecar is not None and self._slots != self._output.record.slots:
            self._output.sidecar.write(replace(self._output.record, slots=self._slots))

    def _send(self, rows: Iterable[PendingRow | None]) -> None:
        window = Window(self._builder.build(rows), self._max_in_flight(), UrlImages(self._client.queue.reader))
        for outcomes in self._client.rounds(window):
            for id, outcome in outcomes:
                self._write(id, outcome)
            if self._writer.due:
                self._writer.commit()
                self._delete_outcomes()
            totals = self._writer.totals
            saved = self._session.shrinker.saved.bytes if self._session.shrinker else 0
            self._show(totals.answered + totals.failed, totals.failed, saved, self._session.forecast.rows)
            self._reporter.tick()
            self._session.forecast.tick()
            if time.monotonic() - self._workers_checked >= _WORKERS_INTERVAL_S:
                window.widen(self._max_in_flight())

    def _write(self, id: str, outcome: Outcome) -> None:
        row = self._builder.open.pop(id)
        if isinstance(outcome, UnknownJob):
            # Redis lost its data; the row gets no line, so the next run sends it again
            self._lost += 1
            return
        if isinstance(outcome, Answer):
            if row.shown and self._plan.review and is_doubtful(outcome, self._plan.review.below):
                self._writer.write_review(review_line(row.custom_id, row.shown, outcome))
            self._writer.write_answer(row.custom_id, outcome)
        else:
            expired = row.ends_with_batch and isinstance(outcome, DeadlineExceeded)
            code = EXPIRED_CODE if expired else outcome.code()
            self._writer.write_failure(id, row.custom_id, Failure(code, str(outcome), row.number))
        # a dead letter keeps its outcome, by which the next run knows that the job has ended
        if not isinstance(outcome, JobGivenUp):
            self._uncommitted.append(id)

    def _delete_outcomes(self) -> None:
        """Delete the outcomes of rows whose lines are durable."""
        self._committed += self._uncommitted
        self._uncommitted = []
        try:
            self._client.queue.forget(self._committed)
        except QueueUnavailable:
            # retried with the next commit; the rest expires
            del self._committed[:-_MAX_IN_FLIGHT]
        else:
            self._committed = []

    def _max_in_flight(self) -> int:
        self._workers_checked = time.monotonic()
        # the wait for answers reports that Redis is unreachable
        with suppress(QueueUnavailable):
            self._slots |= {each.name: int(each.about.get("slots", 1)) for each in self._client.workers()}
        wanted = _PER_SLOT * sum(self._slots.values())
        return self._plan.max_inflight or min(_MAX_IN_FLIGHT, max(_MIN_IN_FLIGHT, wanted))

    def explain_interruption(self, why: BaseException) -> None:
        """Say how to resume; cancel open jobs after a signal if the run cannot be resumed."""
        if self._writer.resumable:
            print("vqa: submitted jobs keep running; run the same command again to resume", file=sys.stderr)
            return
        if isinstance(why, Stopped):
            self._reporter.cancel(_CANCEL_S)
        print("vqa: output to a stream cannot be resumed; name a file with -o", file=sys.stderr)

    def summarize(self) -> int:
        """Print the summary and return the exit status."""
        totals = self._writer.totals
        if not self._plan.quiet:
            seconds = time.monotonic() - self._started
            for line in summary_lines(totals, self._writer.earlier, seconds, self._slots, self._plan.price):
                print(line, file=sys.stderr)
            for line in self._session.notes():
                print(line, file=sys.stderr)
        if self._lost:
            print(f"vqa: Redis lost {self._lost:,} rows; run the same command again to send them", file=sys.stderr)
            return TEMPORARY
        if waiting := self._builder.unavailable:
            why = "have an image that could not be fetched for the moment"
            print(f"vqa: {waiting:,} rows {why}; run the same command again to send them", file=sys.stderr)
            return TEMPORARY
        return NOT_ALL if totals.failed else 0
