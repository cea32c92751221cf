"""Creates, finds, lists and cancels batches, for the endpoints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import Annotated, cast

import redis.asyncio
from fastapi import Depends, Request

from producer.client.job_queue import JobQueue
from producer.client.outage import redis_errors
from producer.gateway.access.caller import Caller
from producer.gateway.batches.batch_files import BatchFiles
from producer.gateway.batches.lease import Leases
from producer.gateway.batches.output_files import OutputReader
from producer.gateway.batches.record import PREFIX, BatchRecord, SavedBatch
from producer.gateway.batches.registry import BatchRegistry
from producer.gateway.batches.request import BatchRequest
from producer.gateway.batches.runner import Runner
from producer.gateway.batches.work import Tools, create
from producer.gateway.context import Context
from producer.gateway.errors import Conflict, NotFound
from producer.gateway.files.record import PREFIX as FILE_PREFIX
from producer.gateway.files.record import FileRecord
from producer.gateway.files.store import missing
from producer.gateway.tasks import end_tasks
from producer.gateway.webhooks.webhooks import Webhooks
from producer.ids import is_owner, new_id
from producer.prediction import Prediction, predict
from vqa.ledger.batch_state import BatchState
from vqa.ledger.batches import Batches

#: a batch and its state in the ledger
Found = tuple[SavedBatch, BatchState]


class BatchService:
    """Makes, finds and cancels batches. Methods raise QueueUnavailable."""

    def __init__(self, connection: redis.asyncio.Redis, tools: Tools, leases: Leases, webhooks: Webhooks) -> None:
        self._tools = tools
        self._webhooks = webhooks
        self._registry = tools.registry
        self._queue = tools.queue
        reader = OutputReader(connection, tools.queue.backend)
        self.files = BatchFiles(self._load, tools.registry, tools.files, reader)
        self._runner = Runner(tools, leases)

    @contextmanager
    def _redis_errors(self) -> Iterator[None]:
        with redis_errors(self._queue.settings):
            yield

    async def create(
        self, request: BatchRequest, caller: Caller, trace: str | None, idempotency_key: str | None = None
    ) -> Found:
        """Make a batch of an uploaded file, or find that of the same key.

        Raises NotFound, KeyReused, or InvalidRequest for its webhook.
        """
        if not is_owner(request.input_file_id, FILE_PREFIX, caller.tenant):
            raise missing(request.input_file_id)
        with self._redis_errors():
            id = new_id(PREFIX, caller.tenant)
            if idempotency_key:
                body = request.model_dump_json().encode()
                id = await self._registry.id_for(caller.tenant, idempotency_key, body, id)
                [saved] = await self._registry.get([id])
                if saved is not None:
                    return await self.get(id, caller)
            file = await self._tools.files.get(request.input_file_id)
            if request.vqa.webhook:
                webhook = request.vqa.webhook
                await self._webhooks.watch(id, webhook.url, caller, "vqa.webhook.url", late=webhook.late, trace=trace)
            record = self._record(id, request, file, caller, trace)
            await self._registry.add(record)
            # if this process dies before, the runner creates it
            [saved] = await self._registry.get([id])
            if saved is not None:
                await asyncio.to_thread(create, self._queue, saved)
        self._runner.wake()
        return await self.get(id, caller)

    def _record(
        self, id: str, request: BatchRequest, file: FileRecord, caller: Caller, trace: str | None
    ) -> BatchRecord:
        output = request.output_expires_after
        return BatchRecord(
            id=id,
            endpoint=request.endpoint,
            input_file_id=file.id,
            filename=file.filename,
            completion_window=request.completion_window,
            window_s=request.window_s,
            created_at=int(time.time()),
            # from when a row ends, which may be soon
            keep_s=request.window_s + (output.seconds if output else self._queue.settings.batch_ttl_s),
            metadata=request.metadata,
            lane=request.vqa.lane,
            tenant=caller.tenant,
            key_id=caller.key_id,
            allowance=asdict(caller.allowance),
            trace=trace,
        )

    async def get(self, id: str, caller: Caller) -> Found:
        """Return a batch of the caller. Raises NotFound."""
        if is_owner(id, PREFIX, caller.tenant):
            with self._redis_errors():
                [found] = await self._load([id])
            if found is not None:
                return found
        raise NotFound(f"there is no batch {id}: it is not kept any more, or belongs to somebody else")

    async def predict(self, found: Sequence[Found]) -> dict[str, Prediction]:
        """Return when batches end, by id; none of those over or being cancelled."""
        states, settings = [state for _, state in found], self._queue.settings
        with self._redis_errors():
            return await asyncio.to_thread(predict, self._queue.redis, states, settings.lease_s)

    async def newest(self, caller: Caller, after: str | None, limit: int) -> tuple[list[Found], bool]:
        """Return the newest batches after a cursor, and whether there are more. Raises InvalidRequest."""
        with self._redis_errors():
            return await self._registry.ids(caller.tenant).collect(after, limit, "desc", self._load)

    async def _load(self, ids: list[str]) -> list[Found | None]:
        # states before records: a record is written before the status that it explains
        states = await asyncio.to_thread(Batches(self._queue.redis).states, ids)
        saved = await self._registry.get(ids)
        return [
            (each, states[id]) if each is not None and id in states else None
            for id, each in zip(ids, saved, strict=True)
        ]

    async def cancel(self, id: str, caller: Caller) -> Found:
        """Let no more rows of a batch begin; the open ones are cancelled soon. Raises NotFound, Conflict."""
        _, state = await self.get(id, caller)
        if state.is_over and state.status != "cancelled":
            raise Conflict(f"the batch is {state.status} and cannot be cancelled", code="batch_over")
        with self._redis_errors():
            await asyncio.to_thread(Batches(self._queue.redis).cancel, id)
        self._runner.wake()
        return await self.get(id, caller)

    async def run(self) -> None:
        """Work on the batches of all gateways until cancelled."""
        await self._runner.run()


@asynccontextmanager
async def open_batches(context: Context) -> AsyncIterator[BatchService]:
    """Make the service, and work on batches meanwhile."""
    queue = JobQueue(context.queue_settings)
    # nobody waits for rows: outcomes are looked up when they are read
    queue.reply_list = ""
    leases = Leases(context.redis)
    registry = BatchRegistry(context.redis, leases)
    tools = Tools(registry, context.files, queue, context.admission, context.settings, context.images)
    service = BatchService(context.redis, tools, leases, context.webhooks)
    running = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        await end_tasks(running)
        await asyncio.to_thread(queue.close)


# async, or FastAPI would call it in a thread
async def _service(request: Request) -> BatchService:
    return cast(BatchService, request.app.state.batches)


#: a parameter of an endpoint
BatchesDep = Annotated[BatchService, Depends(_service)]
