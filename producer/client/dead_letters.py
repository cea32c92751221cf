"""Dead letters as a producer sees them: jobs given up and messages set aside, read, retried, purged."""

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
from vqa.image_store import MARGIN_S
from vqa.job import Job, Lane
from vqa.ledger.commands import dead_key
from vqa.ledger.ledger import DEAD, Ledger
from vqa.ledger.records import Header, Past

#: a point in time, or how long ago on Redis's clock
Moment = datetime | timedelta

_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_AGO = re.compile("".join(rf"(?:(?P<{name}>\d{{1,9}}){unit})?" for unit, name in _UNITS.items()), re.ASCII)


def parse_moment(text: str) -> Moment:
    """`2h`, `1d12h`, `90s` (w, d, h, m, s in this order), or an ISO date or time, UTC where it names no offset.

    Raises ValueError.
    """
    match = _AGO.fullmatch(text.strip().lower())
    try:
        if match and text.strip():
            return timedelta(**{name: int(number) for name, number in match.groupdict(default="0").items()})
        moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise ValueError("a time is so long ago (2h, 1d12h, 30m) or a date (2026-11-22, 2026-11-22T10:30Z)") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


#: dead letters that one round trip carries; what was set aside may have 64 KiB
_PAGE = 100

#: what became of a dead letter that was to be retried; `malformed` is no job, `unsupported_version` one of a newer vqa
Verdict = Literal["reopened", "unknown", "open", "malformed", "unsupported_version"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that was given up, whole; or a message that was no job."""

    id: str
    #: `worker_lost`, `attempts_used_up`, `unsupported_version`, or `malformed: ...`
    reason: str
    lane: Lane
    accepted: datetime
    given_up: datetime
    #: the newest that ended without an outcome, oldest first; of earlier lives too where it was retried by hand
    attempts: tuple[Past, ...]
    #: the last error, as `Class: message`
    error: str | None
    #: the job as it was submitted, with its images by reference; of what was no job, the first 64 KiB
    payload: bytes

    @property
    def job(self) -> Job:
        """Raises InvalidJob where it is none that this version of vqa reads."""
        return Job.from_json(self.payload)

    @classmethod
    def parse(cls, id: str, entry: bytes) -> DeadLetter:
        """From what the ledger keeps."""
        head, _, payload = entry.partition(b"\n")
        header = Header.parse(head)
        accepted, given_up = at_ms(header.accepted), at_ms(header.dead or header.accepted)
        error = header.history[-1].error if header.history else header.error
        return cls(id, header.reason or "", header.lane, accepted, given_up, header.history, error, payload)

    def is_because_of(self, reason: str) -> bool:
        """Whether that is its reason, or what its reason begins with: `malformed` has its detail after a colon."""
        return self.reason.partition(":")[0] == reason or self.reason == reason


def at_ms(ms: int) -> datetime:
    """A time on Redis's clock."""
    return datetime.fromtimestamp(ms / 1000, UTC)


class DeadLetters:
    """Over a synchronous connection. Raises one of connection.UNREACHED."""

    def __init__(self, redis: Redis, ledger: Ledger, app: Celery) -> None:
        self._redis = redis
        self._ledger = ledger
        self._app = app

    def newest(
        self, reason: str | None, since: Moment | None, before: Moment | None, limit: int | None
    ) -> list[DeadLetter]:
        """Those given up from `since` until `before`, the newest first."""
        ids = self._ids(since, before)
        found = (letter for page in _pages(ids) for letter in self.read(page).values())
        wanted = (letter for letter in found if reason is None or letter.is_because_of(reason))
        return [*islice(wanted, limit)]

    def _ids(self, since: Moment | None, before: Moment | None) -> Sequence[str]:
        low, high = (self._score(since) or "-inf"), self._score(before)
        found = self._redis.zrevrangebyscore(DEAD, f"({high}" if high else "+inf", low)
        return [id.decode() for id in cast(Sequence[bytes], found)]

    def _score(self, moment: Moment | None) -> str:
        if moment is None:
            return ""
        if isinstance(moment, datetime):
            return f"{moment.timestamp() * 1000:.0f}"
        seconds, micros = self._redis.time()
        return f"{seconds * 1000 + micros // 1000 - moment / timedelta(milliseconds=1):.0f}"

    def read(self, ids: Sequence[str]) -> Mapping[str, DeadLetter]:
        """Those of `ids` that are dead letters."""
        entries = cast(list[bytes | None], self._redis.mget([dead_key(id) for id in ids])) if ids else []
        return {id: DeadLetter.parse(id, entry) for id, entry in zip(ids, entries, strict=True) if entry is not None}

    def retry(self, ids: Iterable[str]) -> dict[str, Verdict]:
        """Make them jobs again and publish them."""
        verdicts: dict[str, Verdict] = {}
        for page in _pages(dict.fromkeys(ids)):
            letters = self.read(page)
            wakeups: list[tuple[str, Lane]] = []
            for id in page:
                said = _refusal(letters.get(id)) or self._ledger.reopen(id, MARGIN_S)
                if said == "interactive" or said == "bulk":
                    wakeups.append((id, said))
                    verdicts[id] = "reopened"
                elif said == "waiting":
                    verdicts[id] = "reopened"
                else:
                    verdicts[id] = said
            if wakeups:
                wake(self._app, wakeups)
        return verdicts

    def purge(self, ids: Iterable[str]) -> int:
        """Drop them; how many there were. Their outcomes stay until they expire."""
        count = 0
        for page in _pages(dict.fromkeys(ids)):
            # a Redis that is full would refuse a transaction
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.delete(*map(dead_key, page))
                pipe.zrem(DEAD, *page)
                deleted, _ = pipe.execute()
            count += deleted
        return count

    def count(self, ttl_s: float) -> int:
        """How many there are; those older than their time to live are gone, though they may still be listed."""
        low = self._score(timedelta(seconds=ttl_s))
        return self._redis.zcount(DEAD, low, "+inf")

    def reasons(self, most: int) -> Counter[str]:
        """How many of the newest there are by reason, without its detail."""
        newest = cast(Sequence[bytes], self._redis.zrange(DEAD, 0, most - 1, desc=True))
        letters = (letter for page in _pages(id.decode() for id in newest) for letter in self.read(page).values())
        return Counter(letter.reason.partition(":")[0] for letter in letters)


def _refusal(letter: DeadLetter | None) -> Literal["malformed", "unsupported_version"] | None:
    if letter is None:
        # the ledger knows why
        return None
    try:
        Job.from_json(letter.payload)
    except UnsupportedVersion:
        return "unsupported_version"
    except InvalidJob:
        return "malformed"
    return None


def _pages(ids: Iterable[str]) -> Iterator[Sequence[str]]:
    each = iter(ids)
    while page := [*islice(each, _PAGE)]:
        yield page
