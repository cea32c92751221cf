"""`vqa submit --detach`: every row onto the queue at once, for whoever collects the batch later."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from producer.bulk.batch import BulkClient, Register, Terms
from producer.bulk.image_loader import AHEAD, ImageLoader
from producer.bulk.jobs import Making, bad_rows
from producer.bulk.plan import Plan, open_book
from producer.process import NOT_ALL, USAGE
from vqa.errors import SettingsError
from vqa.job import Job


def detach(plan: Plan) -> int:
    """Print the batch's id; the exit status. Raises QueueFull, SettingsError, QueueUnavailable: nothing is left."""
    if plan.out is not None:
        raise SettingsError("--detach waits for no answers: `vqa collect BATCH -o OUT` fetches them")
    if plan.strict and plan.piped:
        raise SettingsError("--strict reads its input twice; a pipe can be read only once")
    with ExitStack() as stack:
        client = stack.enter_context(BulkClient())
        # answers are written by whoever collects them
        opened = open_book(replace(plan, out=Path(os.devnull)), client, stack)
        register = stack.enter_context(Register(opened.book.batch, client))
        images = stack.enter_context(ImageLoader(client.settings, 1 if plan.piped else AHEAD))
        if plan.strict and (count := bad_rows(plan, opened.book, register, images)):
            print(f"vqa: {count:,} rows are no jobs; nothing was sent", file=sys.stderr)
            return USAGE
        end = None if plan.within_s is None else time.time() + plan.within_s
        making = Making(plan, client, opened.book, register, images, end)
        lane = plan.delivery.get("lane", "bulk")
        terms = Terms(lane, plan.delivery.get("tenant"), ", ".join(plan.inputs), plan.within_s, detached=True)
        register.begin(terms)
        print(f"vqa: batch {opened.book.batch}", file=sys.stderr)
        try:
            sent = client.upload(opened.book.batch, _named(making))
        finally:
            opened.book.finish()
        bad = register.total - sent
        register.seal()
    print(opened.book.batch)
    told = f", {bad:,} were no jobs" if bad else ""
    print(f"vqa: {sent:,} rows are on the queue{told}; vqa collect {opened.book.batch} -o OUT", file=sys.stderr)
    return NOT_ALL if bad else 0


def _named(making: Making) -> Iterator[tuple[str, Job]]:
    for job in making.jobs(making.rows()):
        yield making.open.pop(job.id).custom_id, job
