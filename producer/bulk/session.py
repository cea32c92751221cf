"""What `vqa submit` works with, whether it waits for answers or detaches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack

from producer.bulk.batch import BatchReporter, BulkClient
from producer.bulk.forecast import Forecast
from producer.bulk.image_loader import ImageLoader
from producer.bulk.jobs import JobBuilder
from producer.bulk.plan import Plan, open_output
from producer.images.shrinker import Shrinker
from vqa.errors import SettingsError


class Session:
    """The client, output, reporter and job builder of one run; `stack` closes them.

    Raises SettingsError if the output cannot be used.
    """

    def __init__(self, plan: Plan, stack: ExitStack) -> None:
        if plan.strict and plan.piped:
            raise SettingsError("--strict reads the input twice, which a pipe does not allow")
        self.plan = plan
        self.client = stack.enter_context(BulkClient())
        self.output = open_output(plan, self.client, stack)
        self.writer = self.output.writer
        self.reporter = stack.enter_context(BatchReporter(self.writer.batch, self.client))
        self.shrinker: Shrinker | None = None
        if plan.shrink is not None:
            self.shrinker = Shrinker(plan.shrink, self.client.settings.image_limits, self.client.workers)
        images = stack.enter_context(ImageLoader(self.client.queue.reader, self.shrinker))
        self.builder = JobBuilder(plan, self.client, self.writer, self.reporter, images)
        self.forecast = stack.enter_context(Forecast(plan, self.writer.batch, self.client, self.reporter))

    def notes(self) -> Iterator[str]:
        """Say what the summary has to add about the rows' images, and what was not asked about."""
        if self.shrinker is not None:
            yield str(self.shrinker.saved)
        if review := self.plan.review:
            yield f"{self.writer.reviewed:,} answers to review (below {review.below:g}): {review.path}"
        yield from self.builder.left_out()

    def fails_strict(self) -> bool:
        """With --strict, read the whole input and report rows that are invalid or would be asked in part."""
        count = self.builder.count_bad_rows() if self.plan.strict else 0
        if not count:
            return False
        if self.output.fresh and self.output.sidecar is not None:
            self.output.sidecar.remove()
        print(f"vqa: {count:,} invalid rows; nothing was sent", file=sys.stderr)
        return True

    def start_batch(self, expires_s: float | None, *, detached: bool = False) -> None:
        """Create the batch in Redis, or continue it; it expires `expires_s` seconds from now, if ever.

        Raises QueueUnavailable, and SettingsError if it was cancelled and --retry-failed is not set.
        """
        lane, tenant = self.plan.delivery.get("lane", "interactive"), self.plan.delivery.get("tenant")
        inputs = ", ".join(self.plan.inputs)
        self.reporter.start(lane, tenant, inputs, expires_s, detached=detached, revived=self.plan.retry_failed)
