"""Batches in Redis: the state and counts of each bulk submission.

The ledger counts the jobs of a batch in the same call that accepts or closes them (`lua/batches.lua`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Self, cast, get_args

from redis import Redis
from redis.exceptions import RedisError

from vqa.error_replies import is_wrong_type
from vqa.job import LANES, Lane
from vqa.ledger.records import Unreadable, texts
from vqa.ledger.script import Script

#: the statuses of OpenAI's batch API
BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled", "failed"
]

BATCHES = "vqa:batches"

#: code under which a batch counts jobs that were open when it expired
EXPIRED_CODE = "batch_expired"

#: rows per call: a script takes only some thousand arguments
_MOST_ROWS = 1000
#: ids per call
_PAGE = 1000

_TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


def batch_key(id: str) -> str:
    return f"vqa:batch:{id}"


@dataclass(frozen=True, slots=True)
class BatchState:
    """A snapshot of a batch. Times are in ms on Redis's clock."""

    id: str
    status: BatchStatus
    created: int
    lane: Lane
    tenant: str = ""
    #: the caller's description of the input, for example a file's name
    input: str = ""
    #: rows read so far; all rows once it is sealed
    total: int = 0
    #: whether no more rows will follow
    sealed: bool = False
    completed: int = 0
    failed: int = 0
    #: number of failures by code
    codes: Mapping[str, int] = field(default_factory=dict)
    #: number of answers by worker
    workers: Mapping[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    #: of the prompts' tokens, those that workers had in their caches
    cached_tokens: int = 0
    #: of the completions' tokens, those of thoughts
    reasoning_tokens: int = 0
    #: number of open jobs
    open: int = 0
    #: when it ends, even with open jobs; 0 for never
    expires: int = 0
    keep_ms: int = 0
    detached: bool = False
    #: when it reached each status so far
    times: Mapping[str, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Number of rows that are answered or failed."""
        return self.completed + self.failed

    @property
    def left(self) -> int:
        """Number of rows that were read and are neither answered nor failed."""
        return max(0, self.total - self.done, self.open)

    @property
    def has_all_rows(self) -> bool:
        return self.sealed or self.is_over

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "expired", "cancelled", "failed")

    @classmethod
    def parse(cls, id: str, fields: Mapping[bytes, bytes], open: int) -> Self:
        """Parse the hash of a batch with `open` open jobs. Raises Unreadable."""
        try:
            return cls._parse(id, {name.decode(): value.decode() for name, value in fields.items()}, open)
        except UnicodeDecodeError:
            raise Unreadable("a field of it is not UTF-8") from None
        except KeyError as missing:
            raise Unreadable(f"its field {missing.args[0]} is missing") from None
        except ValueError:
            raise Unreadable("a field of it that counts is no number") from None

    @classmethod
    def _parse(cls, id: str, words: Mapping[str, str], open: int) -> Self:
        def numbers(beginning: str = "", end: str = "") -> dict[str, int]:
            return {
                name.removeprefix(beginning).removesuffix(end): int(value)
                for name, value in words.items()
                if name.startswith(beginning) and name.endswith(end)
            }

        plain: dict[str, Any] = {
            name: int(words.get(name, 0)) for name in ("created", "total", "completed", "failed", *_TOKENS, "expires")
        }
        if words["status"] not in get_args(BatchStatus) or words["lane"] not in LANES:
            raise Unreadable("its status or its lane is none that vqa knows")
        return cls(
            id=id,
            status=cast(BatchStatus, words["status"]),
            lane=words["lane"],
            tenant=words["tenant"],
            input=words["input"],
            sealed="sealed" in words,
            codes=numbers("failed:"),
            workers=numbers("worker:"),
            open=open,
            keep_ms=int(words["keep_ms"]),
            detached=words["detached"] == "1",
            # a worker's name may end in _at, too
            times={name: at for name, at in numbers(end="_at").items() if ":" not in name},
            **plain,
        )


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
