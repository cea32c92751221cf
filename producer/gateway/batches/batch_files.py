"""Output and error files of batches among the other files of a tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from producer.gateway.batches.output_files import FileKind, OutputReader, parse_output_file_id
from producer.gateway.batches.record import SavedBatch
from producer.gateway.batches.registry import BatchRegistry
from producer.gateway.files.files import Files
from producer.gateway.files.record import FileRecord
from producer.gateway.files.store import missing
from producer.ids import owner_tag
from vqa.ledger.batch_state import BatchState

#: returns batches and their states in order; None for each that is gone
LoadBatches = Callable[[list[str]], Awaitable[list[tuple[SavedBatch, BatchState] | None]]]


def has_file(saved: SavedBatch, state: BatchState, kind: FileKind) -> bool:
    """Return whether a batch has such a file: as at OpenAI, none that is empty once the batch is over."""
    if saved.progress.total is None or kind in saved.deleted:
        return False
    if kind == "errors":
        return state.failed > 0
    return state.completed > 0 or not state.is_over


class BatchFiles:
    """Finds, reads and deletes the files of batches. Methods raise redis.exceptions.RedisError."""

    def __init__(self, load: LoadBatches, registry: BatchRegistry, files: Files, reader: OutputReader) -> None:
        self._load = load
        self._registry = registry
        self._files = files
        self._reader = reader

    async def get(self, id: str) -> FileRecord:
        """Describe a file of a batch, with its size if the batch is over. Raises NotFound."""
        saved, state, kind = await self._find(id)
        size = 0
        if state.is_over:
            size = await self._registry.file_size(saved.id, kind) or await self._count(saved, state, kind)
        return _record(id, saved, kind, size)

    async def _count(self, saved: SavedBatch, state: BatchState, kind: FileKind) -> int:
        size = 0
        async for lines in self._reader.content(saved, state, kind):
            size += len(lines)
        await self._registry.save_file_size(saved.id, kind, size)
        return size

    async def records(self, ids: list[str]) -> list[FileRecord | None]:
        """Describe stored files and those of batches, without the sizes of the latter; None for each that is gone."""
        batches = {id: parsed for id in ids if (parsed := parse_output_file_id(id)) is not None}
        stored = [id for id in ids if id not in batches]
        found = dict(zip(stored, await self._files.records(stored), strict=True)) if stored else {}
        wanted = list(dict.fromkeys(batch for batch, _ in batches.values()))
        loaded = dict(zip(wanted, await self._load(wanted), strict=True)) if wanted else {}
        for id, (batch, kind) in batches.items():
            pair = loaded[batch]
            exists = pair is not None and has_file(*pair, kind)
            found[id] = _record(id, pair[0], kind, 0) if pair is not None and exists else None
        return [found[id] for id in ids]

    async def content(self, id: str) -> AsyncIterator[bytes]:
        """Return the lines of all rows that have ended. Raises NotFound."""
        return self._reader.content(*await self._find(id))

    async def delete(self, id: str) -> None:
        """Let the file be gone; the outcomes of its rows stay. Raises NotFound."""
        saved, _, kind = await self._find(id)
        await self._registry.delete_file(saved.id, kind)
        await self._files.ids(owner_tag(saved.record.tenant)).remove([id])

    async def _find(self, id: str) -> tuple[SavedBatch, BatchState, FileKind]:
        parsed = parse_output_file_id(id)
        [found] = await self._load([parsed[0]]) if parsed else [None]
        if parsed is None or found is None or not has_file(*found, parsed[1]):
            raise missing(id)
        return *found, parsed[1]


def _record(id: str, saved: SavedBatch, kind: FileKind, size: int) -> FileRecord:
    created_at = saved.record.created_at
    name, purpose = f"{saved.id}_{kind}.jsonl", "batch_output"
    return FileRecord(id, size, created_at, created_at + saved.record.keep_s, name, purpose)
