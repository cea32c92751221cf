"""`vqa submit`: rows onto the queue, a bounded number at a time, and how they ended into OUT and ERR."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import chain

from producer.bulk.batch import BulkClient, Register, Terms
from producer.bulk.image_loader import AHEAD, ImageLoader, Todo
from producer.bulk.jobs import Making, bad_rows
from producer.bulk.output.formats import Failure
from producer.bulk.plan import Opened, Plan, open_book
from producer.bulk.summary import bar, told_in_words
from producer.client.waiters import Window
from producer.process import NOT_ALL, TEMPORARY, USAGE, Stopped
from vqa.answer import Answer
from vqa.errors import DeadlineExceeded, JobGivenUp, QueueUnavailable, SettingsError, UnknownJob
from vqa.ledger.batches import EXPIRED_CODE
from vqa.results import Outcome

#: jobs on the queue for each slot of the workers, and the fewest and the most
_PER_SLOT = 4
_FEWEST, _MOST = 256, 5000

#: whoever pressed Ctrl-C waits no longer than this for jobs to be cancelled
_CANCEL_S = 5.0

#: how often it is looked which workers there are
_WORKERS_S = 10.0


def submit(plan: Plan) -> int:
    """Do what the options say; the exit status. Raises SettingsError, QueueUnavailable, OSError."""
    if plan.strict and plan.piped:
        raise SettingsError("--strict reads its input twice; a pipe can be read only once")
    with ExitStack() as stack:
        client = stack.enter_context(BulkClient())
        opened = open_book(plan, client, stack)
        register = stack.enter_context(Register(opened.book.batch, client))
        images = stack.enter_context(ImageLoader(client.settings, 1 if plan.piped else AHEAD))
        if plan.strict and (count := bad_rows(plan, opened.book, register, images)):
            if opened.fresh and opened.sidecar is not None:
                opened.sidecar.remove()
            print(f"vqa: {count:,} rows are no jobs; nothing was sent", file=sys.stderr)
            return USAGE
        show = stack.enter_context(bar(among_answers=plan.out is None))
        end = None if plan.within_s is None else opened.record.began + plan.within_s
        making = Making(plan, client, opened.book, register, images, end)
        run = Run(plan, client, opened, register, making, show)
        try:
            run.go(end)
        except (Stopped, QueueUnavailable) as why:
            run.interrupted(why)
            raise
        stack.close()
        return run.summed_up()


class Run:
    """From the first row to the last outcome."""

    def __init__(
        self,
        plan: Plan,
        client: BulkClient,
        opened: Opened,
        register: Register,
        making: Making,
        show: Callable[[int, int], None],
    ) -> None:
        self._plan = plan
        self._client = client
        self._opened = opened
        self._book = opened.book
        self._register = register
        self._making = making
        self._show = show
        #: jobs whose lines are not durable yet, and those whose outcomes may be deleted
        self._written: list[str] = []
        self._durable: list[str] = []
        #: slots by worker
        self._slots: dict[str, int] = {**opened.record.slots}
        self._looked = 0.0
        self._begun = time.monotonic()
        #: rows of which Redis knows nothing any more
        self._lost = 0

    def go(self, end: float | None) -> None:
        """Send what has no line, and write how it ended."""
        rows = self._making.rows()
        first = next(rows, None)
        if first is not None:
            lane = self._plan.delivery.get("lane", "interactive")
            expires_s = None if end is None else max(0.001, end - time.time())
            terms = Terms(lane, self._plan.delivery.get("tenant"), ", ".join(self._opened.record.input), expires_s)
            self._register.begin(terms, revived=self._plan.retry_failed)
            # what an earlier run wrote last and had no time to delete
            self._durable += self._book.last
            self._send(chain([first], rows))
        self._register.finalize()
        self._book.finish()
        self._tidy()
        tally = self._book.tally
        self._register.seal((tally.answered, tally.codes))
        if self._opened.sidecar is not None and self._slots != self._opened.record.slots:
            self._opened.sidecar.write(replace(self._opened.record, slots=self._slots))

    def _send(self, rows: Iterable[Todo]) -> None:
        window = Window(self._making.jobs(rows), self._in_flight())
        for outcomes in self._client.rounds(window):
            for id, outcome in outcomes:
                self._write(id, outcome)
            if self._book.due:
                self._book.commit()
                self._tidy()
            tally = self._book.tally
            self._show(tally.answered + tally.failed, tally.failed)
            self._register.tick()
            if time.monotonic() - self._looked >= _WORKERS_S:
                window.widen(self._in_flight())

    def _write(self, id: str, outcome: Outcome) -> None:
        asked = self._making.open.pop(id)
        if isinstance(outcome, UnknownJob):
            # a Redis that lost its content; the row has no line, so the next run sends it
            self._lost += 1
            return
        if isinstance(outcome, Answer):
            self._book.answered(asked.custom_id, outcome)
        else:
            expired = asked.cut and isinstance(outcome, DeadlineExceeded)
            code = EXPIRED_CODE if expired else outcome.code()
            self._book.failed(id, asked.custom_id, Failure(code, str(outcome), asked.number))
        # a dead letter's is kept with it: by it the next run knows that the job ended
        if not isinstance(outcome, JobGivenUp):
            self._written.append(id)

    def _tidy(self) -> None:
        """Delete the outcomes of rows whose lines are there for good."""
        self._durable += self._written
        self._written = []
        try:
            self._client.forget(self._durable)
        except QueueUnavailable:
            # once more with the next ones; what is left expires
            del self._durable[:-_MOST]
        else:
            self._durable = []

    def _in_flight(self) -> int:
        self._looked = time.monotonic()
        # whoever waits for answers says it where Redis is away
        with suppress(QueueUnavailable):
            self._slots |= {each.name: int(each.about.get("slots", 1)) for each in self._client.workers()}
        return self._plan.max_inflight or min(_MOST, max(_FEWEST, _PER_SLOT * sum(self._slots.values())))

    def interrupted(self, why: BaseException) -> None:
        """Say how to go on."""
        if self._book.resumable:
            print("vqa: what was submitted goes on; the same command goes on from here", file=sys.stderr)
            return
        if isinstance(why, Stopped):
            self._register.cancel(_CANCEL_S)
        print("vqa: answers on a stream cannot be gone on with; name a file with -o", file=sys.stderr)

    def summed_up(self) -> int:
        """Say how it went; the exit status."""
        seconds = time.monotonic() - self._begun
        for line in self._summary(seconds):
            print(line, file=sys.stderr)
        if self._lost:
            print(f"vqa: Redis lost {self._lost:,} rows; the same command sends them again", file=sys.stderr)
            return TEMPORARY
        return NOT_ALL if self._book.tally.failed else 0

    def _summary(self, seconds: float) -> Iterator[str]:
        return told_in_words(self._book.tally, self._book.earlier, seconds, self._slots, self._plan.price)
