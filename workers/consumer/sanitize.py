"""Sanitizing messages from Celery's lists before Celery sees them. No I/O.

Any client of Redis may write anything to a list, and one malformed message would end every worker that pops it. A good
message is written anew from the fields that are honoured (retries, `expires` as the job's timeout, the job), each of
the type that celery 5.7 and kombu 5.7 expect. Links, groups, stamps, Celery's time limits and `eta` are dropped; with
`eta`, a worker would pull every such message into its memory. A job in a chain or a chord is refused, since the next
task would never be called.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kombu.utils import json as kombu_json

from vqa.celery import BODY, TASK
from vqa.jobs.job import ID_PATTERN, LONGEST_TIMEOUT_S
from workers.consumer.json_limits import has_too_many_parts, is_too_deep
from workers.consumer.waiting import following_ids, id_in_tail, is_waited_for
from workers.settings import MESSAGE_MAX_BYTES

#: shorter than the ledger's millisecond: a job with this timeout is overdue once it is accepted
_OVERDUE_S = 0.0001

_ID = re.compile(ID_PATTERN)
#: task names that may be logged; anything else may be the user's text
_TASK_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,63}")
_ENCODINGS = (None, "utf-8", "utf8", "us-ascii", "ascii")

#: bodies of our wake-ups: as kombu encodes them, and as they are after a worker has put them back
_WAKE_UPS = (base64.b64encode(BODY.encode()).decode(), BODY)


@dataclass(frozen=True, slots=True)
class MalformedMessage:
    """A message that no worker can use."""

    #: quotes nothing from the message except a task's name
    reason: str
    #: of the job, if the message has a usable one
    id: str | None = None
    #: further ids under which somebody may wait for a result
    waiting: tuple[str, ...] = ()


class _Malformed(Exception):
    """The message is malformed; the text quotes nothing from it except a task's name."""

    def __init__(self, reason: str, waiting: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.waiting = waiting


def sanitize(raw: bytes, queue: str, max_bytes: int = MESSAGE_MAX_BYTES) -> bytes | MalformedMessage:
    """Rewrite a message popped from the list `queue` so that Celery can handle it, or say what is wrong. Never raises.

    It gets a new delivery tag, so that an earlier holder cannot acknowledge it and copies do not share one.
    """
    id: object = None
    try:
        if heavy := _weight(raw, max_bytes):
            id = id_in_tail(raw)
            raise _Malformed(heavy)
        message = _parse(raw)
        headers = _object(message, "headers")
        id = headers.get("id")
        body, headers = _body(message, headers)
        id = headers.get("id")
        return _rewrite(message, headers, body, usable_id(id), queue)
    except _Malformed as error:
        return _malformed(str(error), id, error.waiting)
    except Exception as error:
        return _malformed(f"it cannot be read ({type(error).__name__})", id)


def _malformed(reason: str, id: object, waiting: Sequence[str] = ()) -> MalformedMessage:
    if isinstance(id, str) and usable_id(id) is None and is_waited_for(id):
        waiting = (id, *waiting)
    return MalformedMessage(reason, usable_id(id), tuple(waiting))


def _weight(raw: bytes, max_bytes: int) -> str | None:
    if len(raw) > max_bytes:
        return f"it has {len(raw)} bytes; the limit is {max_bytes} (VQA_MESSAGE_MAX_BYTES)"
    return "it has too many values" if has_too_many_parts(raw) else None


def usable_id(value: object) -> str | None:
    """Return `value` if it can be a job's id, else None."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        message = json.loads(raw.decode())
    except UnicodeDecodeError:
        raise _Malformed("it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise _Malformed("it is not JSON") from None
    if not isinstance(message, dict):
        raise _Malformed("it is not a JSON object")
    return message


def _object(message: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = message.get(name)
    if value is not None and not isinstance(value, dict):
        raise _Malformed(f"{name} is not an object")
    return value or {}


def _body(message: Mapping[str, Any], headers: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the job in a list, empty for one of our wake-ups, and the headers, which protocol 1 has in the body."""
    if message.get("content-type") != "application/json":
        raise _Malformed("its content type is not application/json")
    if _lower(message.get("content-encoding")) not in _ENCODINGS:
        raise _Malformed("its content encoding is not UTF-8")
    if headers.get("compression"):
        raise _Malformed("it is compressed")
    body = message.get("body")
    if body in _WAKE_UPS:
        return [], headers
    decoded = _decode(body, _lower(_object(message, "properties").get("body_encoding")))
    if isinstance(decoded, dict):
        # protocol 1; a message with headers as well is Celery's hybrid of both, and the headers win
        headers = decoded | headers
        decoded = [decoded.get("args") or [], decoded.get("kwargs") or {}, {"chord": decoded.get("chord")}]
    return _job(decoded), headers


def _decode(body: object, encoding: object) -> Any:
    if not isinstance(body, str):
        raise _Malformed("its body is not text")
    if encoding not in ("base64", "utf-8", None):
        raise _Malformed("its body's encoding is neither base64 nor utf-8")
    try:
        raw = base64.b64decode(body) if encoding == "base64" else body.encode()
        if has_too_many_parts(raw):
            raise _Malformed("its body has too many values")
        # parsed as Celery will: its JSON has types that plain JSON lacks, and refuses unknown ones
        decoded = kombu_json.loads(raw.decode())
    except (ValueError, TypeError, ArithmeticError, AttributeError, RecursionError):
        raise _Malformed("its body is not JSON") from None
    if is_too_deep(decoded):
        raise _Malformed("its body is nested too deeply")
    return decoded


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _job(decoded: object) -> list[Any]:
    if not isinstance(decoded, list) or len(decoded) != 3:
        raise _Malformed("its body is not [args, kwargs, embed]")
    args, kwargs, embed = decoded
    if not (isinstance(args, list) and isinstance(kwargs, dict) and isinstance(embed, dict | None)):
        raise _Malformed("its body is not [list, object, object]")
    _refuse_following(embed or {})
    if not args and not kwargs:
        raise _Malformed("args: missing; the task takes a job as its only argument, with its messages")
    return args[:1] or [kwargs.get("job", kwargs)]


def _refuse_following(embed: Mapping[str, Any]) -> None:
    chain, chord = embed.get("chain"), embed.get("chord")
    for name, part in (("chain", chain), ("chord", chord)):
        if part and isinstance(part, list | dict):
            said = f"{name}: not supported; send the job alone, and the next task when its result is there"
            raise _Malformed(said, following_ids(chain, chord))


def _rewrite(
    message: Mapping[str, Any], headers: Mapping[str, Any], job: list[Any], id: str | None, queue: str
) -> bytes:
    task, retries = headers.get("task"), headers.get("retries")
    if task != TASK:
        named = f" {task}" if isinstance(task, str) and _TASK_NAME.fullmatch(task) else ""
        raise _Malformed(f"the task{named} is unknown" if task else "it names no task")
    if id is None:
        raise _Malformed("task_id: it has 1 to 128 characters: letters, digits and ._:@+-")
    now = datetime.now(UTC)
    # `eta` is only checked
    _, expires = (_parse_time(headers, name) for name in ("eta", "expires"))
    if job and expires is not None:
        job = [_with_timeout(job[0], (expires - now).total_seconds())]
    priority = _object(message, "properties").get("priority")
    safe = {
        "body": kombu_json.dumps([job, {}, {}]) if job else BODY,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "lang": "py",
            "task": TASK,
            "id": id,
            "root_id": id,
            "parent_id": None,
            "ignore_result": True,
            "retries": retries if type(retries) is int and 0 <= retries < 2**31 else 0,
        },
        "properties": {
            "correlation_id": id,
            "delivery_tag": str(uuid.uuid4()),
            # the anonymous exchange: a message that is put back goes to the list that it came from
            "delivery_info": {"exchange": "", "routing_key": queue},
            "body_encoding": "utf-8",
            "priority": min(priority, 9) if type(priority) is int and priority >= 0 else 0,
        },
    }
    return json.dumps(safe).encode()


def _parse_time(headers: Mapping[str, Any], name: str) -> datetime | None:
    value = headers.get(name)
    if value is None:
        return None
    try:
        when = datetime.fromisoformat(value)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise _Malformed(f"its {name} is not a time") from None


def _with_timeout(job: object, remaining_s: float) -> object:
    """Turn `expires` into the job's timeout: Celery would drop an expired message silently, without an outcome."""
    if not isinstance(job, dict):
        return job
    max_s = min(max(remaining_s, _OVERDUE_S), LONGEST_TIMEOUT_S)
    given_s = job.get("timeout_s")
    if isinstance(given_s, int | float) and not given_s > max_s:
        return job
    return job | {"timeout_s": max_s}
