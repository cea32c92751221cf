"""What `vqa dlq` prints: text for people, JSON for scripts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from producer.cli.show import columns
from producer.client.dead_letters import DeadLetter, Verdict, at_ms
from vqa.errors import InvalidJob
from vqa.jobs.job import Job
from vqa.jobs.message import ImagePart, TextPart, VideoPart
from vqa.ledger.records import AttemptRecord

#: characters shown of a message that is not a job
_RAW = 2000

#: size in bytes by image reference; None for an image that the store no longer has
Sizes = Mapping[str, int | None]

#: printed result of a retry
WORDS: Mapping[Verdict, str] = {
    "reopened": "reopened",
    "unknown": "is not a dead letter",
    "open": "is open already",
    "malformed": "is not a job and cannot be retried",
    "unsupported_version": "needs a newer vqa; upgrade this one first",
}


def listed(letters: Sequence[DeadLetter], as_json: bool) -> str:
    """List dead letters without their jobs, one per line."""
    if as_json:
        return "\n".join(json.dumps(_header(letter)) for letter in letters)
    rows = (
        (letter.id, letter.reason, letter.lane, _time(letter.given_up), len(letter.attempts), letter.error)
        for letter in letters
    )
    head = ("ID", "REASON", "LANE", "GIVEN UP", "ATTEMPTS", "ERROR")
    return columns([head, *(tuple(printable(cell) for cell in row) for row in rows)])


def whole(letter: DeadLetter, sizes: Sizes, as_json: bool) -> str:
    """Describe a dead letter with its attempts and its job."""
    job = job_of(letter)
    if as_json:
        about = _header(letter) | {"attempts": [_attempt(each) for each in letter.attempts]}
        about |= {"images": sizes}
        about |= {"job": json.loads(letter.payload)} if job else {"raw": text_of(letter.payload)}
        return json.dumps(about, indent=2)
    facts = [
        ("id", letter.id),
        ("reason", letter.reason),
        ("lane", letter.lane),
        ("accepted", _time(letter.accepted)),
        ("given up", _time(letter.given_up)),
        ("last error", letter.error),
    ]
    parts = [columns((name, printable(value)) for name, value in facts)]
    if letter.attempts:
        head = ("ATTEMPT", "FROM", "TO", "WORKER", "ERROR")
        rows = ((each.attempt, _ms(each.taken), _ms(each.ended), each.worker, each.error) for each in letter.attempts)
        parts.append(columns([head, *(tuple(printable(cell) for cell in row) for row in rows)]))
    parts.append("\n".join(_job(job, sizes) if job else _raw(letter.payload)))
    return "\n\n".join(parts)


def job_of(letter: DeadLetter) -> Job | None:
    """Return the job, or None if this version of vqa cannot read one."""
    try:
        return letter.job
    except InvalidJob:
        return None


def retried(verdicts: Mapping[str, Verdict], one_by_one: bool) -> str:
    """Describe the results of a retry, one by one or as counts."""
    if one_by_one:
        return "\n".join(f"{printable(id)} {WORDS[verdict]}" for id, verdict in verdicts.items())
    counts = Counter(verdicts.values())
    return ", ".join(f"{counts[verdict]} {WORDS[verdict]}" for verdict in WORDS if counts[verdict]) or "none"


def text_of(raw: bytes) -> str:
    """Decode any bytes; invalid ones are escaped."""
    return raw.decode("utf-8", "backslashreplace")


def printable(value: object) -> str | None:
    """Escape control characters and line breaks; None stays None."""
    if value is None:
        return None
    return "".join(char if char.isprintable() else _escaped(char) for char in str(value))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _header(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "reason": letter.reason,
        "lane": letter.lane,
        "accepted": letter.accepted.isoformat(),
        "given_up": letter.given_up.isoformat(),
        "attempts": len(letter.attempts),
        "error": letter.error,
    }


def _attempt(record: AttemptRecord) -> dict[str, Any]:
    times = {"taken": at_ms(record.taken).isoformat(), "ended": at_ms(record.ended).isoformat()}
    told = {name: value for name, value in asdict(record).items() if name != "token"}
    return told | times


def _job(job: Job, sizes: Sizes) -> Iterable[str]:
    # images are listed with the messages
    fields = job.model_dump(mode="json", exclude={"messages", "id", "lane", "version"}, exclude_none=True)
    yield columns((name, printable(json.dumps(value, ensure_ascii=False))) for name, value in fields.items())
    for message in job.messages:
        yield ""
        yield f"{message.role}:"
        for part in message.content:
            lines = part.text.splitlines() if isinstance(part, TextPart) else _visual(part, sizes)
            yield from (f"  {printable(line)}" for line in lines)


def _visual(part: ImagePart | VideoPart, sizes: Sizes) -> list[str]:
    return [_image(content, "image" if isinstance(part, ImagePart) else "video", sizes) for content in part.contents]


def _image(content: bytes | str, kind: str, sizes: Sizes) -> str:
    if isinstance(content, bytes):
        return f"[{kind} of {len(content):,} bytes, in the job itself]"
    size = sizes.get(content)
    return f"[{kind} {content}, {'no longer stored' if size is None else f'{size:,} bytes'}]"


def _raw(raw: bytes) -> Iterable[str]:
    text = text_of(raw)
    yield f"not a job: {len(raw):,} bytes" + (f", the first {_RAW} characters:" if len(text) > _RAW else ":")
    yield from (f"  {printable(line)}" for line in text[:_RAW].splitlines())


def _ms(ms: int) -> str:
    return _time(at_ms(ms))


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}Z"
