"""Output and error files of batches, generated when they are read from the rows and their outcomes.

Nothing is stored, so that they can be read while the batch is in progress: each row that has ended once, in the order
of the input.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Literal, cast

import redis.asyncio
from celery.backends.base import Backend

from producer.bulk.output.formats import encode
from producer.gateway.batches.record import PREFIX, SavedBatch
from producer.gateway.errors import error_object, status_of
from producer.gateway.files.record import PREFIX as FILE_PREFIX
from producer.openai.chat_completion import chat_completion
from vqa.answer import Answer
from vqa.errors import Cancelled, DeadlineExceeded, UnknownJob, VQAError
from vqa.ledger.batch_state import EXPIRED_CODE, BatchState
from vqa.ledger.batches import batch_key
from vqa.ledger.commands import outcome_key
from vqa.results import decode

FileKind = Literal["output", "errors"]

#: rows whose outcomes are in memory at once
_PAGE = 200

_OUTPUT_ID = re.compile(rf"{FILE_PREFIX}_([0-9a-f]{{12}}_[0-9a-f]{{24}})-(output|errors)")

#: of an outcome, as Celery writes it, before anything of the answer
_DONE = re.compile(rb'"date_done": ?"([^"]{1,40})"')


def output_file_id(batch: str, kind: FileKind) -> str:
    """Return the id of a batch's output or error file."""
    return f"{FILE_PREFIX}_{batch.removeprefix(f'{PREFIX}_')}-{kind}"


def parse_output_file_id(id: str) -> tuple[str, FileKind] | None:
    """Return the batch and the kind of an output or error file; None for the id of another file."""
    found = _OUTPUT_ID.fullmatch(id)
    return (f"{PREFIX}_{found[1]}", cast(FileKind, found[2])) if found else None


class OutputReader:
    """Reads the rows of batches. Methods raise redis.exceptions.RedisError."""

    def __init__(self, connection: redis.asyncio.Redis, backend: Backend) -> None:
        self._redis = connection
        self._backend = backend

    async def content(self, saved: SavedBatch, state: BatchState, kind: FileKind) -> AsyncIterator[bytes]:
        """Yield the lines of the file, many at once. `state` must be read before."""
        first = 0
        while rows := cast(
            list[bytes],
            await self._redis.lrange(f"{batch_key(saved.id)}:rows", first, first + _PAGE - 1),
        ):
            first += len(rows)
            names = [row.decode("utf-8", "replace").partition("\n")[::2] for row in rows]
            outcomes = await self._redis.mget([outcome_key(id) for id, _ in names])
            page = list(zip(names, cast(list[bytes | None], outcomes), strict=True))
            if lines := await asyncio.to_thread(self._lines, page, state, kind):
                yield lines

    def _lines(self, page: Sequence[tuple[tuple[str, str], bytes | None]], state: BatchState, kind: FileKind) -> bytes:
        lines = []
        for (id, custom_id), data in page:
            if data is None and not state.is_over:
                continue
            outcome = decode(self._backend, data) if data is not None else _lost(id, state)
            if isinstance(outcome, Answer) and kind == "output":
                lines.append(encode(_answer_line(custom_id, outcome, data or b"")))
            elif isinstance(outcome, VQAError) and kind == "errors":
                lines.append(encode(_error_line(id, custom_id, outcome, state)))
        return b"".join(lines)


def _lost(id: str, state: BatchState) -> VQAError:
    if state.status == "cancelled":
        return Cancelled("the batch was cancelled before this request was executed")
    return UnknownJob(f"the outcome of {id} is not kept any more")


def _answer_line(custom_id: str, answer: Answer, data: bytes) -> dict[str, Any]:
    body = chat_completion(answer)
    # when the row ended, so that a file reads the same each time
    if found := _DONE.search(data, 0, 1000):
        body["created"] = int(datetime.fromisoformat(found[1].decode()).timestamp())
    response = {"status_code": 200, "request_id": answer.id, "body": body}
    return {"id": answer.id, "custom_id": custom_id, "response": response, "error": None}


def _error_line(id: str, custom_id: str, error: VQAError, state: BatchState) -> dict[str, Any]:
    """Return the line of a failure: as OpenAI, `error` is for rows that were not executed."""
    code = None
    if isinstance(error, DeadlineExceeded) and state.expires:
        code = EXPIRED_CODE
    elif isinstance(error, Cancelled):
        code = "batch_cancelled"
    if code is not None:
        why = {"code": code, "message": str(error)}
        return {"id": id, "custom_id": custom_id, "response": None, "error": why}
    body = {"error": error_object(error)}
    response = {"status_code": status_of(error), "request_id": id, "body": body}
    return {"id": id, "custom_id": custom_id, "response": response, "error": None}
