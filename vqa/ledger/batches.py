"""The batches in Redis: what is known of each bulk submission, beside its jobs.

Its jobs are counted by the ledger as they are accepted and closed (`batches.lua`), in the same call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Self, cast

from redis import Redis

from vqa.job import Lane
from vqa.ledger.commands import SCRIPT

#: OpenAI's
BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled", "failed"
]

BATCHES = "vqa:batches"

#: the code under which jobs are counted that were open when their batch's own time ended
EXPIRED_CODE = "batch_expired"

#: a script takes no more than some thousand arguments
_MOST_ROWS = 1000
#: ids that one call reads
_PAGE = 1000


def batch_key(id: str) -> str:
    """Where a batch is kept."""
    return f"vqa:batch:{id}"


@dataclass(frozen=True, slots=True)
class BatchState:
    """A batch at one moment. Times in ms on Redis's clock."""

    id: str
    status: BatchStatus
    created: int
    lane: Lane
    tenant: str = ""
    #: what it was made from, in the user's words
    input: str = ""
    #: rows read so far; all of them once it is sealed
    total: int = 0
    #: whether no more rows will come
    sealed: bool = False
    completed: int = 0
    failed: int = 0
    #: how many failed by code
    codes: Mapping[str, int] = field(default_factory=dict)
    #: how many each worker answered
    workers: Mapping[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    #: its jobs that are open
    open: int = 0
    #: when it ends, whatever is open then; 0 for never
    expires: int = 0
    keep_ms: int = 0
    detached: bool = False
    #: when it came to each status that it has been in
    times: Mapping[str, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Rows that ended, one way or the other."""
        return self.completed + self.failed

    @property
    def left(self) -> int:
        """Rows that were read and have not ended."""
        return max(0, self.total - self.done, self.open)

    @property
    def has_all_rows(self) -> bool:
        """Whether it has all of its rows."""
        return self.sealed or self.is_over

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("completed", "expired", "cancelled", "failed")

    @classmethod
    def parse(cls, id: str, fields: Mapping[bytes, bytes], open: int) -> Self:
        """From the hash."""
        words = {name.decode(): value.decode() for name, value in fields.items()}

        def numbers(beginning: str = "", end: str = "") -> dict[str, int]:
            return {
                name.removeprefix(beginning).removesuffix(end): int(value)
                for name, value in words.items()
                if name.startswith(beginning) and name.endswith(end)
            }

        plain: dict[str, Any] = {
            name: int(words.get(name, 0))
            for name in ("created", "total", "completed", "failed", "prompt_tokens", "completion_tokens", "expires")
        }
        return cls(
            id=id,
            status=cast(BatchStatus, words["status"]),
            lane=cast(Lane, words["lane"]),
            tenant=words["tenant"],
            input=words["input"],
            sealed="sealed" in words,
            codes=numbers("failed:"),
            workers=numbers("worker:"),
            open=open,
            keep_ms=int(words["keep_ms"]),
            detached=words["detached"] == "1",
            # a worker's name may end so, too
            times={name: at for name, at in numbers(end="_at").items() if ":" not in name},
            **plain,
        )


class Batches:
    """Over a synchronous connection. Raises redis.exceptions.RedisError when Redis does."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = redis.register_script(SCRIPT)

    def _run(self, *arguments: Any) -> Any:
        return self._script(keys=[], args=arguments)

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
        """Begin a batch, `validating` until its first job is accepted. It ends `expires_s` from now, if ever.

        False where it is there already: then it goes on with its counts and this end, and takes more rows until it is
        sealed again; one that was cancelled stays so, unless it is `revived`. All of it is kept for `keep_s` after it
        ended.
        """
        # a file's name may be no text
        input = input.encode("utf-8", "replace").decode()
        terms = (
            round((expires_s or 0) * 1000),
            round(keep_s * 1000),
            *("1" if each else "0" for each in (detached, revived)),
        )
        return bool(self._run("batch_create", id, lane, tenant or "", input, *terms))

    def get(self, id: str) -> BatchState | None:
        """What is known of it."""
        return self._states([id]).get(id)

    def newest(self, limit: int = 100) -> list[BatchState]:
        """The newest ones first."""
        found: list[BatchState] = []
        start = 0
        while len(found) < limit:
            page = [id.decode() for id in cast(list[bytes], self._redis.zrevrange(BATCHES, start, start + limit - 1))]
            states = self._states(page)
            found += states.values()
            gone = [id for id in page if id not in states]
            if gone:
                self._redis.zrem(BATCHES, *gone)
            if len(page) < limit:
                break
            start += len(states)
        return found[:limit]

    def _states(self, ids: Sequence[str]) -> dict[str, BatchState]:
        # no transaction: a Redis that is full would refuse it
        with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hgetall(batch_key(id))
                pipe.scard(f"{batch_key(id)}:open")
            replies = pipe.execute() if ids else []
        pairs = zip(ids, replies[::2], replies[1::2], strict=True)
        return {id: BatchState.parse(id, fields, open) for id, fields, open in pairs if fields}

    def seal(self, id: str, total: int, ended: tuple[int, Mapping[str, int]] | None = None) -> bool:
        """Say that it has so many rows and no more will come: it ends with the last of its open jobs.

        Whoever waited for all of them says how they `ended`: how many were answered, and how many failed by code. False
        where no such batch is kept; so do the others.
        """
        words = [] if ended is None else [ended[0], *(word for pair in ended[1].items() for word in pair)]
        return bool(self._run("batch_seal", id, total, *words))

    def count(self, id: str, bad: Mapping[str, int], total: int) -> bool:
        """Say how many rows were read, and how many of them, by code, never became jobs: they count as failed.

        All since `create`; to say it twice is harmless.
        """
        words = [word for pair in bad.items() for word in pair]
        return bool(self._run("batch_count", id, total, *words))

    def add_rows(self, id: str, first: int, rows: Iterable[tuple[str, str]]) -> bool:
        """Keep job id and custom_id of more rows, in order, for whoever collects a detached batch.

        `first` is how many it has already; to add the same rows twice is harmless.
        """
        lines = (f"{job_id}\n{custom_id}" for job_id, custom_id in rows)
        while some := list(islice(lines, _MOST_ROWS)):
            if not self._run("batch_rows", id, first, *some):
                return False
            first += len(some)
        return True

    def rows(self, id: str, start: int, count: int) -> list[tuple[str, str]]:
        """Job id and custom_id of so many rows from number `start` (from 0) on."""
        lines = cast(list[bytes], self._redis.lrange(f"{batch_key(id)}:rows", start, start + count - 1))
        pairs = (line.decode().partition("\n") for line in lines)
        return [(job_id, custom_id) for job_id, _, custom_id in pairs]

    def open_ids(self, id: str) -> Iterator[str]:
        """Ids of its open jobs, each once at least; of those that are closed meanwhile, any."""
        for member in self._redis.sscan_iter(f"{batch_key(id)}:open", count=_PAGE):
            yield member.decode()

    def cancel(self, id: str) -> BatchStatus | None:
        """Let no more jobs in; its status now, `cancelled` once none is open. The caller closes those that are.

        One that is over stays as it is. None where no such batch is kept.
        """
        return cast(BatchStatus | None, self._run("batch_cancel", id).decode() or None)

    def set_status(self, id: str, status: BatchStatus) -> bool:
        """For what its producer alone knows: `finalizing`, which only a batch `in_progress` becomes, and `failed`."""
        return bool(self._run("batch_status", id, status))
