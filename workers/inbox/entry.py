"""Reads entries of the inbox. Any program may write one, so each value may be anything. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vqa.errors import InvalidJob
from vqa.frozen_model import shown
from vqa.jobs.lane import LANES, Lane
from workers.consumer.json_limits import has_too_many_parts, is_too_deep
from workers.consumer.sanitize import usable_id

#: fields of an entry besides `job`, each either empty or as its pattern says, and what is said of another value
_OPTIONS: dict[str, tuple[re.Pattern[str], str]] = {
    "reply": (
        re.compile(r"vqa:reply:[A-Za-z0-9._:@+-]{1,128}"),
        "a reply list is named vqa:reply:NAME; NAME has 1 to 128 letters, digits and ._:@+-",
    ),
    "stream": (re.compile("1"), "1, if the answer is wanted while it is generated; empty or missing otherwise"),
    "trace": (
        re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{1,128})?"),
        "it is not a W3C traceparent",
    ),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it is in the stream."""

    #: Redis's id of the entry
    id: str
    fields: Mapping[bytes, bytes]

    @property
    def size(self) -> int:
        return sum(len(name) + len(value) for name, value in self.fields.items())


@dataclass(frozen=True, slots=True)
class Request:
    """What an entry asks for: a job that is JSON and has an id, but may be invalid otherwise."""

    id: str
    lane: Lane
    fields: Mapping[str, Any]
    #: key of the list that gets the job's id when it ends; '' for none
    reply: str = ""
    #: whether the answer is wanted while it is generated
    stream: bool = False
    #: W3C traceparent
    trace: str | None = None


class Refused(Exception):
    """The entry is no request. The message, and the error, quote nothing from it."""

    def __init__(self, error: InvalidJob, request: Request | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        #: the request as far as it is valid; None if the entry has no usable job id
        self.request = request


def parse(entry: Entry, max_bytes: int) -> Request:
    """Return the entry's request. Raises Refused."""
    if entry.size > max_bytes:
        raise Refused(InvalidJob(f"it has {entry.size} bytes; the limit is {max_bytes} (VQA_MESSAGE_MAX_BYTES)"))
    fields = _job_fields(entry.fields.get(b"job"))
    id, lane = usable_id(fields.get("id")), next((lane for lane in LANES if lane == fields.get("lane")), LANES[0])
    if id is None:
        said = "id: required in the inbox, as the answer is found by it; 1 to 128 letters, digits and ._:@+-"
        raise Refused(InvalidJob(said))
    known, flaw = _options(entry.fields)
    request = Request(id, lane, fields, known["reply"], known["stream"] == "1", known["trace"] or None)
    if flaw:
        raise Refused(InvalidJob(flaw), request)
    return request


def _job_fields(raw: bytes | None) -> dict[str, Any]:
    if raw is None:
        raise Refused(InvalidJob("job: missing; an entry of the inbox has a field `job`, which is JSON"))
    if has_too_many_parts(raw):
        raise Refused(InvalidJob("job: it has too many values"))
    try:
        fields = json.loads(raw.decode())
    except UnicodeDecodeError:
        raise Refused(InvalidJob("job: it is not UTF-8")) from None
    except (ValueError, RecursionError):
        raise Refused(InvalidJob("job: it is not JSON")) from None
    if not isinstance(fields, dict):
        raise Refused(InvalidJob("job: it is not a JSON object"))
    if is_too_deep(fields):
        raise Refused(InvalidJob("job: it is nested too deeply"))
    return fields


def _options(fields: Mapping[bytes, bytes]) -> tuple[dict[str, str], str | None]:
    """Return the valid ones of the fields besides `job`, the others empty, and what is wrong with one of these."""
    known, flaw = dict.fromkeys(_OPTIONS, ""), None
    for raw, value in fields.items():
        name, text = raw.decode("utf-8", "replace"), value.decode("utf-8", "replace")
        if name == "job":
            continue
        pattern, said = _OPTIONS.get(name, (None, "an entry of the inbox has no such field"))
        if pattern and (not text or pattern.fullmatch(text)):
            known[name] = text
        else:
            flaw = f"{shown(name)}: {said}"
    return known, flaw
