"""Reads entries of the inbox. Any program may write one, so each value may be anything. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vqa.errors import InvalidJob
from vqa.frozen_model import shown
from vqa.job import LANES, Lane
from workers.consumer.json_limits import has_too_many_parts, is_too_deep
from workers.consumer.sanitize import usable_id

#: fields of an entry; only `job` is required
_FIELDS = frozenset((b"job", b"reply"))

_REPLY_LIST = re.compile(r"vqa:reply:[A-Za-z0-9._:@+-]{1,128}")


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
    reply = _reply_list(entry.fields.get(b"reply", b""))
    request = Request(id, lane, fields, reply or "")
    if reply is None:
        said = "reply: a reply list is named vqa:reply:NAME; NAME has 1 to 128 letters, digits and ._:@+-"
        raise Refused(InvalidJob(said), request)
    if unknown := sorted(entry.fields.keys() - _FIELDS):
        name = shown(unknown[0].decode("utf-8", "replace"))
        raise Refused(InvalidJob(f"{name}: an entry of the inbox has no such field"), request)
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


def _reply_list(raw: bytes) -> str | None:
    """Return the name of the reply list, '' for none; None if it is invalid."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        return None
    return name if not name or _REPLY_LIST.fullmatch(name) else None
