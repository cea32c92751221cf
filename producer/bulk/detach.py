"""`vqa submit --detach`: put every row on the queue at once and exit; `vqa collect` fetches the answers later."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from producer.bulk.jobs import JobBuilder
from producer.bulk.plan import Plan
from producer.bulk.session import Session
from producer.client.batch_submission import upload
from producer.client.submission import PreparedJob
from producer.process import NOT_ALL, USAGE
from vqa.errors import SettingsError


def detach(plan: Plan) -> int:
    """Submit all rows, print the batch's id, and return the exit status.

    Raises QueueFull, SettingsError or QueueUnavailable; then no job is left on the queue.
    """
    if plan.out is not None:
        raise SettingsError("--detach does not wait for answers; fetch them with `vqa collect BATCH -o OUT`")
    if plan.review is not None:
        raise SettingsError("--detach does not wait for answers, of which --review-below has to see the probabilities")
    with ExitStack() as stack:
        # `vqa collect` writes the answers
        session = Session(replace(plan, out=Path(os.devnull)), stack)
        if session.fails_strict():
            return USAGE
        batch = session.writer.batch
        if plan.within_s is not None:
            session.builder.deadline = time.time() + plan.within_s
        session.start_batch(plan.within_s, detached=True)
        if not plan.quiet:
            print(f"vqa: batch {batch}", file=sys.stderr)
        try:
            sent = upload(session.client.queue, batch, _with_custom_ids(session.builder))
        finally:
            session.writer.finish()
        not_sent = session.reporter.total - sent
        session.reporter.seal()
        session.forecast.tell()
    print(batch)
    if not plan.quiet:
        for line in session.notes():
            print(f"vqa: {line}", file=sys.stderr)
        rest = f", {not_sent:,} were not sent" if not_sent else ""
        print(f"vqa: {sent:,} rows are on the queue{rest}; vqa collect {batch} -o OUT", file=sys.stderr)
    return NOT_ALL if not_sent else 0


def _with_custom_ids(builder: JobBuilder) -> Iterator[tuple[str, PreparedJob] | None]:
    for job in builder.build(builder.pending_rows()):
        yield None if job is None else (builder.open.pop(job.id).custom_id, job)
