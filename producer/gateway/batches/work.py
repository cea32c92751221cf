"""Works on one batch under its lease: checks the input, submits the rows, and attends to the end."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from producer.client.batches import cancel_batch
from producer.client.capacity import Backoff
from producer.client.job_queue import JobQueue
from producer.client.states import GRACE_MS
from producer.gateway.access.admission import Admission
from producer.gateway.batches.lease import Lease
from producer.gateway.batches.lines import line_pages
from producer.gateway.batches.output_files import FileKind, output_file_id
from producer.gateway.batches.record import LineError, Progress, SavedBatch
from producer.gateway.batches.registry import BatchRegistry
from producer.gateway.batches.rows import BatchRow, ReadRow, RowReader
from producer.gateway.batches.submitter import Submitter
from producer.gateway.batches.validation import InputCheck
from producer.gateway.caller_images import CallerImages
from producer.gateway.errors import NotFound
from producer.gateway.files.files import Files
from producer.gateway.tasks import end_tasks
from producer.ids import owner_tag
from producer.images.parts import Use
from vqa.errors import BadImage, ImageUnavailable
from vqa.gateway_settings import GatewaySettings
from vqa.ledger.batch_state import BatchState
from vqa.ledger.batches import Batches
from vqa.ledger.records import Unreadable

log = logging.getLogger(__name__)

#: seconds between two looks at a batch whose rows are all on the queue
LOOK_S = 1.0
#: seconds between two looks at the lease while images are fetched
_KEEP_S = 1.0
#: seconds for which open jobs are cancelled before the lease is renewed
_CANCEL_S = 2.0
#: seconds; with less time left, a row expires instead of becoming a job
_MIN_TIMEOUT_S = 0.01
#: overdue jobs looked up at once
_OVERDUE = 1000


@dataclass(frozen=True, slots=True)
class Tools:
    """What all batches of a process share."""

    registry: BatchRegistry
    files: Files
    queue: JobQueue
    admission: Admission
    settings: GatewaySettings
    images: CallerImages


class BatchWork:
    """The work on one batch. Methods raise LeaseLost, QueueUnavailable and redis.exceptions.RedisError."""

    def __init__(self, tools: Tools, lease: Lease) -> None:
        self._tools = tools
        self._lease = lease
        self._batches = Batches(tools.queue.redis)

    async def run(self) -> None:
        """Work until the batch only has to be waited for, or is over; then give the lease back."""
        while (saved := await self._saved()) is not None:
            await self._lease.keep()
            state = await asyncio.to_thread(self._state, saved.id)
            if state is None and saved.progress != Progress():
                break
            if state is None:
                await asyncio.to_thread(create, self._tools.queue, saved)
            elif state.is_over:
                return await self._end(saved, state)
            elif state.status == "cancelling":
                await asyncio.to_thread(cancel_batch, self._tools.queue, saved.id, _CANCEL_S)
                return await self._lease.release(0)
            elif saved.progress.sealed:
                await asyncio.to_thread(self._close_overdue, state)
                return await self._lease.release(LOOK_S)
            else:
                await self._read(saved)
        await self._lease.end()

    async def _saved(self) -> SavedBatch | None:
        [saved] = await self._tools.registry.get([self._lease.id])
        return saved

    def _state(self, id: str) -> BatchState | None:
        with self._tools.queue.redis_errors():
            try:
                return self._batches.get(id)
            except Unreadable as error:
                log.warning("batch %s is damaged: %s", id, error)
                return None

    async def _read(self, saved: SavedBatch) -> None:
        try:
            if saved.progress.total is None:
                await self._check(saved)
            else:
                await self._submit(saved)
        except NotFound:
            await self._fail(saved, [LineError("input_file_gone", "the input file was deleted or has expired")])

    async def _check(self, saved: SavedBatch) -> None:
        """Check the whole input, and begin or fail the batch."""
        check = InputCheck(saved.record.endpoint)
        file = await self._tools.files.get(saved.record.input_file_id)
        async for page in line_pages(self._tools.files.content(file)):
            await self._lease.keep()
            await asyncio.to_thread(check.check, page)
            if check.is_hopeless:
                break
        if errors := check.finish():
            return await self._fail(saved, errors)
        await self._tools.registry.save_progress(saved.id, Progress(check.total, check.model))
        await asyncio.to_thread(self._begin, saved.id, check.total)
        await self._list_file(saved, "output")

    async def _fail(self, saved: SavedBatch, errors: Sequence[LineError]) -> None:
        await self._tools.registry.save_errors(saved.id, errors)
        if saved.progress.rows:
            await asyncio.to_thread(cancel_batch, self._tools.queue, saved.id)
        await asyncio.to_thread(self._set_failed, saved.id)

    def _begin(self, id: str, rows: int) -> None:
        with self._tools.queue.redis_errors():
            self._batches.expect(id, rows)
            self._batches.set_status(id, "in_progress")

    def _set_failed(self, id: str) -> None:
        with self._tools.queue.redis_errors():
            self._batches.set_status(id, "failed")

    async def _submit(self, saved: SavedBatch) -> None:
        """Submit the rest of the input; return early if the batch was stopped."""
        done = saved.progress
        reader = RowReader(saved.record, self._tools.settings, self._tools.queue.settings, self._tools.images)
        file = await self._tools.files.get(saved.record.input_file_id)
        async for page in line_pages(self._tools.files.content(file, done.offset), done.offset, done.line):
            for group in await asyncio.to_thread(reader.read, page, done.rows):
                submitted = await self._submit_group(saved, reader, group, done)
                if submitted is None:
                    return
                done = submitted
        await asyncio.to_thread(self._seal, saved.id, done)
        await self._tools.registry.save_progress(saved.id, replace(done, sealed=True))

    async def _submit_group(
        self, saved: SavedBatch, reader: RowReader, group: Sequence[ReadRow], done: Progress
    ) -> Progress | None:
        """Submit rows, waiting while the queue is full; return the progress, or None if the batch was stopped."""
        submitter, backoff = Submitter(self._tools.queue, saved.record), Backoff()
        images = await self._images(saved, group)
        rows: list[BatchRow] = []
        rest: list[BatchRow] = []
        while not rows or rest:
            await self._lease.keep()
            left_s = await asyncio.to_thread(self._left_s, saved.id)
            if left_s is None:
                return None
            if not rows:
                rows = rest = await asyncio.to_thread(reader.build, group, max(left_s, _MIN_TIMEOUT_S), images)
            if left_s < _MIN_TIMEOUT_S:
                await asyncio.to_thread(submitter.expire, rest)
                break
            offered_rows = len(rest)
            rest, offered = await asyncio.to_thread(submitter.submit, rest)
            if rest:
                await asyncio.sleep(backoff.pause_s(offered, offered_rows))
        bad = Counter(done.bad) + submitter.bad
        await asyncio.to_thread(submitter.record, done.rows, rows, bad)
        if bad and not done.bad:
            await self._list_file(saved, "errors")
        last = group[-1].line
        done = replace(done, offset=last.end, line=last.number, rows=done.rows + len(rows), bad=dict(bad))
        await self._tools.registry.save_progress(saved.id, done)
        return done

    async def _images(
        self, saved: SavedBatch, group: Sequence[ReadRow]
    ) -> Mapping[str, bytes | BadImage | ImageUnavailable]:
        """Fetch the images that the rows name by URL, keeping the lease meanwhile."""
        urls: dict[str, Use] = {}
        for each in group:
            for url, use in each.urls.items():
                urls[url] = urls.get(url, use) | use
        if not urls:
            return {}
        images = self._tools.images
        fetching = asyncio.create_task(images.fetch_each(urls, saved.record.key_id, images.timeout_s({"lane": "bulk"})))
        try:
            while not fetching.done():
                await asyncio.wait({fetching}, timeout=_KEEP_S)
                await self._lease.keep()
            return fetching.result()
        finally:
            await end_tasks(fetching)

    def _left_s(self, id: str) -> float | None:
        """Return the seconds until the batch expires, on Redis's clock; None if it takes no more rows."""
        state = self._state(id)
        if state is None or state.is_over or state.status == "cancelling":
            return None
        with self._tools.queue.redis_errors():
            seconds, micros = self._tools.queue.redis.time()
        return state.expires / 1000 - seconds - micros / 1e6

    def _seal(self, id: str, done: Progress) -> None:
        with self._tools.queue.redis_errors():
            self._batches.seal(id, done.rows)

    def _close_overdue(self, state: BatchState) -> None:
        """Close what is open after the batch's end; without this it would never end while no worker is up."""
        with self._tools.queue.redis_errors():
            seconds, _ = self._tools.queue.redis.time()
            if state.open and seconds * 1000 > state.expires + GRACE_MS:
                self._tools.queue.look(
                    list(islice(self._batches.open_ids(state.id), _OVERDUE)), self._tools.queue.redis
                )

    async def _end(self, saved: SavedBatch, state: BatchState) -> None:
        """Attend to the end of the batch, once."""
        if await self._tools.registry.finish(saved.id):
            if state.failed:
                await self._list_file(saved, "errors")
            await self._tools.admission.charge(saved.record.caller, state.prompt_tokens + state.completion_tokens)
            log.info("batch %s is %s: %d answered, %d failed", saved.id, state.status, state.completed, state.failed)
        await self._lease.end()

    async def _list_file(self, saved: SavedBatch, kind: FileKind) -> None:
        await self._tools.files.ids(owner_tag(saved.record.tenant)).add(output_file_id(saved.id, kind))


def create(queue: JobQueue, saved: SavedBatch) -> None:
    """Create the ledger's batch; harmless if it exists and nothing of it was read."""
    batch = saved.record
    with queue.redis_errors():
        Batches(queue.redis).create(
            batch.id, batch.lane, batch.tenant, batch.filename, batch.window_s, batch.keep_s, detached=True
        )
