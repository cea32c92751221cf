"""Dead letters, read, retried and purged: jobs that were given up, and messages that were not jobs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Literal, cast

from celery import Celery
from redis import Redis

from vqa.celery import wake
from vqa.errors import InvalidJob, UnsupportedVersion
from vqa.jobs.job import Job
from vqa.jobs.lane import Lane
from vqa.ledger.commands import dead_key
from vqa.ledger.ledger import DEAD, Ledger
from vqa.ledger.records import AttemptRecord, Header, texts

#: reason of a dead letter that keeps what another program has damaged
DAMAGED = "damaged"

#: a point in time, or how long ago by Redis's clock
TimeOrAge = datetime | timedelta

_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_AGO = re.compile("".join(rf"(?:(?P<{name}>\d{{1,9}}){unit})?" for unit, name in _UNITS.items()), re.ASCII)


def parse_time(text: str) -> TimeOrAge:
    """Parse an age (`2h`, `1d12h`; w, d, h, m, s in this order) or an ISO date or time, UTC unless it has an offset.

    Raises ValueError.
    """
    match = _AGO.fullmatch(text.strip().lower())
    try:
        if match and text.strip():
            return timedelta(**{name: int(number) for name, number in match.groupdict(default="0").items()})
        time = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is neither an age (2h, 1d12h) nor a date (2026-11-22, 2026-11-22T10:30Z)") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


#: dead letters in one round trip; a message that was not a job may have 64 KiB
_PAGE = 100

#: result of a retry; `open`: the job is open already, `unsupported_version`: it needs a newer vqa
Verdict = Literal["reopened", "unknown", "open", "malformed", "unsupported_version"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that was given up, with all its data; or a message that was not a job."""

    id: str
    #: `worker_lost`, `attempts_used_up`, `unsupported_version`, `malformed: ...` or `damaged: ...`
    reason: str
    lane: Lane
    accepted: datetime
    given_up: datetime
    #: the newest attempts without an outcome, oldest first; they include those before a retry by hand
    attempts: tuple[AttemptRecord, ...]
    #: the last error, as `Class: message`
    error: str | None
    #: the job as submitted, with images by reference; or the first 64 KiB of a message that was not a job
    payload: bytes

    @property
    def job(self) -> Job:
        """Parse the job. Raises InvalidJob if this version of vqa cannot read it."""
        return Job.from_json(self.payload)

    @classmethod
    def parse(cls, id: str, entry: bytes) -> DeadLetter:
        head, _, payload = entry.partition(b"\n")
        try:
            header = Header.parse(head)
            accepted, given_up = at_ms(header.accepted), at_ms(header.dead or header.accepted)
        except (ValueError, OverflowError, OSError):
            unknown = at_ms(0)
            return cls(id, f"{DAMAGED}: its own entry cannot be read", "bulk", unknown, unknown, (), None, entry)
        error = header.history[-1].error if header.history else header.error
        return cls(id, header.reason or "", header.lane, accepted, given_up, header.history, error, payload)

    def is_because_of(self, reason: str) -> bool:
        """Whether this is the reason, with or without the detail that follows a colon, as in `malformed: not JSON`."""
        return self.reason.partition(":")[0] == reason or self.reason == reason


def at_ms(ms: int) -> datetime:
    """Convert milliseconds since 1970."""
    return datetime.fromtimestamp(ms / 1000, UTC)


class DeadLetters:
    """Access over a synchronous connection. Methods raise one of connection.REDIS_ERRORS."""

    def __init__(self, redis: Redis, ledger: Ledger, app: Celery, images_keep_s: int) -> None:
        self._images_keep_s = images_keep_s
        self._redis = redis
        self._ledger = ledger
        self._app = app

    def newest(
        self, reason: str | None, since: TimeOrAge | None, before: TimeOrAge | None, limit: int | None
    ) -> list[DeadLetter]:
        """Return the dead letters given up from `since` until `before`, newest first."""
        ids = self._ids(since, before)
        found = (letter for page in _pages(ids) for letter in self.read(page).values())
        wanted = (letter for letter in found if reason is None or letter.is_because_of(reason))
        return [*islice(wanted, limit)]

    def _ids(self, since: TimeOrAge | None, before: TimeOrAge | None) -> Sequence[str]:
        low, high = (self._score(since) or "-inf"), self._score(before)
        found = self._redis.zrevrangebyscore(DEAD, f"({high}" if high else "+inf", low)
        return texts(cast(Sequence[bytes], found))

    def _score(self, time: TimeOrAge | None) -> str:
        if time is None:
            return ""
        if isinstance(time, datetime):
            return f"{time.timestamp() * 1000:.0f}"
        seconds, micros = self._redis.time()
        return f"{seconds * 1000 + micros // 1000 - time / timedelta(milliseconds=1):.0f}"

    def read(self, ids: Sequence[str]) -> Mapping[str, DeadLetter]:
        """Return the dead letters among `ids`."""
        entries = cast(list[bytes | None], self._redis.mget([dead_key(id) for id in ids])) if ids else []
        return {id: DeadLetter.parse(id, entry) for id, entry in zip(ids, entries, strict=True) if entry is not None}

    def retry(self, ids: Iterable[str]) -> dict[str, Verdict]:
        """Reopen the jobs and publish them."""
        verdicts: dict[str, Verdict] = {}
        for page in _pages(dict.fromkeys(ids)):
            letters = self.read(page)
            wakeups: list[tuple[str, str]] = []
            for id in page:
                refusal = _refusal(letters.get(id))
                result = refusal or self._ledger.reopen(id, self._images_keep_s)
                if result in ("unknown", "open"):
                    verdicts[id] = cast(Verdict, result)
                elif refusal is None and result != "waiting":
                    wakeups.append((id, result))
                verdicts.setdefault(id, refusal or "reopened")
            if wakeups:
                wake(self._app, wakeups)
        return verdicts

    def purge(self, ids: Iterable[str]) -> int:
        """Delete dead letters and return how many existed. Outcomes stay until they expire."""
        count = 0
        for page in _pages(dict.fromkeys(ids)):
            # no transaction: Redis refuses one when its memory is full
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.delete(*map(dead_key, page))
                pipe.zrem(DEAD, *page)
                deleted, _ = pipe.execute()
            count += deleted
        return count

    def count(self, ttl_s: float) -> int:
        """Count the dead letters. Expired ones, which may still be in the index, do not count."""
        low = self._score(timedelta(seconds=ttl_s))
        return self._redis.zcount(DEAD, low, "+inf")

    def reasons(self, limit: int) -> Counter[str]:
        """Count the newest dead letters by reason, without its detail."""
        newest = cast(Sequence[bytes], self._redis.zrange(DEAD, 0, limit - 1, desc=True))
        letters = (letter for page in _pages(texts(newest)) for letter in self.read(page).values())
        return Counter(letter.reason.partition(":")[0] for letter in letters)


def _refusal(letter: DeadLetter | None) -> Literal["malformed", "unsupported_version"] | None:
    if letter is None:
        # `reopen` finds out why
        return None
    if letter.is_because_of(DAMAGED):
        return "malformed"
    try:
        Job.from_json(letter.payload)
    except UnsupportedVersion:
        return "unsupported_version"
    except InvalidJob:
        return "malformed"
    return None


def _pages(ids: Iterable[str]) -> Iterator[Sequence[str]]:
    rest = iter(ids)
    while page := [*islice(rest, _PAGE)]:
        yield page
