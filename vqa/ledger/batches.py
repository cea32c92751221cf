"""Batches in Redis: the state and counts of each bulk submission.

The ledger counts the jobs of a batch in the same call that accepts or closes them (`lua/batches.lua`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from vqa.jobs.lane import Lane
from vqa.ledger.batch_state import BatchState, BatchStatus
from vqa.ledger.records import Unreadable, texts
from vqa.ledger.script import Script
from vqa.redis.error_replies import is_wrong_type

BATCHES = "vqa:batches"

#: rows per call: a script takes only some thousand arguments
_MOST_ROWS = 1000
#: ids per call
_PAGE = 1000


def batch_key(id: str) -> str:
    return f"vqa:batch:{id}"


class Batches:
    """The batches, over a synchronous connection. Methods raise redis.exceptions.RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = Script(redis)

    def _run(self, *arguments: Any) -> Any:
        return self._script([], *arguments)

    def create(
        self,
        id: str,
        lane: Lane,
        tenant: str | None = None,
        input: str = "",
        expires_s: float | None = None,
        keep_s: float = 7 * 86_400,
        detached: bool = False,
        revived: bool = False,
    ) -> bool:
        """Create a batch, which is `validating` until its first job is accepted. It expires after `expires_s`, if set.

        Returns False if it exists: then it goes on with its counts and the new expiry, and accepts rows until it is
        sealed again; a cancelled batch stays cancelled unless `revived`. It is kept for `keep_s` seconds after its end.
        """
        # a file's name may be invalid UTF-8
        input = input.encode("utf-8", "replace").decode()
        terms = (
            round((expires_s or 0) * 1000),
            round(keep_s * 1000),
            *("1" if each else "0" for each in (detached, revived)),
        )
        return bool(self._run("batch_create", id, lane, tenant or "", input, *terms))

    def get(self, id: str) -> BatchState | None:
        """Return the batch; None if it is not kept. Raises Unreadable."""
        state = self._states([id]).get(id)
        if isinstance(state, Unreadable):
            raise state
        return state

    def states(self, ids: Sequence[str]) -> dict[str, BatchState]:
        """Return those of the batches that are kept and can be read, by id, in one round trip."""
        return {id: state for id, state in self._states(ids).items() if isinstance(state, BatchState)}

    def newest(self, limit: int = 100) -> list[BatchState]:
        """Return up to `limit` batches, the newest first, without those that cannot be read."""
        found: list[BatchState] = []
        start = 0
        while len(found) < limit:
            page = texts(cast(list[bytes], self._redis.zrevrange(BATCHES, start, start + limit - 1)))
            states = self._states(page)
            found += (state for state in states.values() if isinstance(state, BatchState))
            gone = [id for id in page if id not in states]
            if gone:
                self._redis.zrem(BATCHES, *gone)
            if len(page) < limit:
                break
            start += len(states)
        return found[:limit]

    def flaws(self, limit: int) -> dict[str, str]:
        """Return what is wrong with those of the newest batches that cannot be read, by id."""
        states = self._states(texts(cast(list[bytes], self._redis.zrevrange(BATCHES, 0, limit - 1))))
        return {id: str(state) for id, state in states.items() if isinstance(state, Unreadable)}

    def _states(self, ids: Sequence[str]) -> dict[str, BatchState | Unreadable]:
        # no transaction, which a full Redis would refuse
        with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hgetall(batch_key(id))
                pipe.scard(f"{batch_key(id)}:open")
            replies = pipe.execute(raise_on_error=False) if ids else []
        pairs = zip(ids, replies[::2], replies[1::2], strict=True)
        return {id: _state(id, fields, open) for id, fields, open in pairs if fields}

    def seal(self, id: str, total: int, ended: tuple[int, Mapping[str, int]] | None = None) -> bool:
        """Set the total number of rows; no more will follow. The batch ends when its last open job is closed.

        A caller that has seen all outcomes passes `ended`, which replaces the counts: the number of answers, and the
        number of failures by code. Returns False if no such batch is kept, as do the methods below.
        """
        words = [] if ended is None else [ended[0], *(word for pair in ended[1].items() for word in pair)]
        return bool(self._run("batch_seal", id, total, *words))

    def count(self, id: str, bad: Mapping[str, int], total: int) -> bool:
        """Set how many rows were read, and how many of them, by code, never became jobs and so count as failed.

        The numbers are totals since `create`, so that the call can be repeated.
        """
        words = [word for pair in bad.items() for word in pair]
        return bool(self._run("batch_count", id, total, *words))

    def expect(self, id: str, rows: int) -> bool:
        """Set how many rows the whole input has, long before all are read; predictions of the end go by it."""
        return bool(self._run("batch_expect", id, rows))

    def add_rows(self, id: str, first: int, rows: Iterable[tuple[str, str]]) -> bool:
        """Store job id and custom_id of further rows of a detached batch, in order, for the later `vqa collect`.

        `first` is the number of rows stored before. Adding rows again, in other portions too, is harmless.
        """
        lines = (f"{job_id}\n{custom_id}" for job_id, custom_id in rows)
        while chunk := list(islice(lines, _MOST_ROWS)):
            if not self._run("batch_rows", id, first, *chunk):
                return False
            first += len(chunk)
        return True

    def rows(self, id: str, start: int, count: int) -> list[tuple[str, str]]:
        """Return job id and custom_id of up to `count` rows from index `start` on."""
        lines = cast(list[bytes], self._redis.lrange(f"{batch_key(id)}:rows", start, start + count - 1))
        pairs = (line.decode("utf-8", "replace").partition("\n") for line in lines)
        return [(job_id, custom_id) for job_id, _, custom_id in pairs]

    def open_ids(self, id: str) -> Iterator[str]:
        """Yield the ids of open jobs, possibly repeated; jobs closed meanwhile may be missing."""
        for member in self._redis.sscan_iter(f"{batch_key(id)}:open", count=_PAGE):
            yield member.decode("utf-8", "replace")

    def cancel(self, id: str) -> BatchStatus | None:
        """Accept no more jobs; return the status now, `cancelled` if none is open. The caller closes the open jobs.

        A batch that is over does not change. Returns None if no such batch is kept.
        """
        return cast(BatchStatus | None, self._run("batch_cancel", id).decode() or None)

    def set_status(self, id: str, status: BatchStatus) -> bool:
        """Set a status that only the producer knows.

        `finalizing` is possible from `in_progress` only, `in_progress` from `validating` only, `failed` from any.
        """
        return bool(self._run("batch_status", id, status))


def _state(id: str, fields: object, open: object) -> BatchState | Unreadable:
    for reply in (fields, open):
        if isinstance(reply, RedisError) and is_wrong_type(reply):
            return Unreadable("a key of it has a wrong type")
        if isinstance(reply, RedisError):
            raise reply
    try:
        return BatchState.parse(id, cast(Mapping[bytes, bytes], fields), cast(int, open))
    except Unreadable as error:
        return error
