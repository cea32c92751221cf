"""Sanitizing messages from Celery's lists before Celery sees them. No I/O.

Any client of Redis may write anything to a list, and one malformed message would end every worker that pops it. A good
message is written anew from the fields that are honoured (retries, `expires` as the job's timeout, the job), each of
the type that celery 5.7 and kombu 5.7 expect. Links, chains, chords, groups, stamps, Celery's time limits and `eta` are
dropped; with `eta`, a worker would pull every such message into its memory.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kombu.utils import json as kombu_json

from vqa.celery import BODY, TASK
from vqa.job import ID_PATTERN, LONGEST_TIMEOUT_S

#: a larger message is not parsed; a job with its images in base64 is well below this
MAX_BYTES = 128 * 2**20

#: nesting of the body's JSON. A job needs eight levels; Celery decodes deeper in the stack, where more may overflow it
_MAX_DEPTH = 32

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


class _Malformed(Exception):
    """The message is malformed; the text quotes nothing from it except a task's name."""


def sanitize(raw: bytes, queue: str) -> bytes | MalformedMessage:
    """Rewrite a message popped from the list `queue` so that Celery can handle it, or say what is wrong. Never raises.

    It gets a new delivery tag, so that an earlier holder cannot acknowledge it and copies do not share one.
    """
    id = None
    try:
        message = _parse(raw)
        headers = _object(message, "headers")
        id = usable_id(headers.get("id"))
        body, headers = _body(message, headers)
        id = usable_id(headers.get("id"))
        return _rewrite(message, headers, body, id, queue)
    except _Malformed as error:
        return MalformedMessage(str(error), id)
    except Exception as error:
        return MalformedMessage(f"it cannot be read ({type(error).__name__})", id)


def usable_id(value: object) -> str | None:
    """Return `value` if it can be a job's id, else None."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def _parse(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_BYTES:
        raise _Malformed(f"it is larger than {MAX_BYTES // 2**20} MiB")
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
        decoded = [decoded.get("args") or [], decoded.get("kwargs") or {}, {}]
    return _job(decoded), headers


def _decode(body: object, encoding: object) -> Any:
    if not isinstance(body, str):
        raise _Malformed("its body is not text")
    if encoding not in ("base64", "utf-8", None):
        raise _Malformed("its body's encoding is neither base64 nor utf-8")
    try:
        # parsed as Celery will: its JSON has types that plain JSON lacks, and refuses unknown ones
        decoded = kombu_json.loads(base64.b64decode(body).decode() if encoding == "base64" else body)
    except (ValueError, TypeError, ArithmeticError, AttributeError, RecursionError):
        raise _Malformed("its body is not JSON") from None
    if _is_deeper(decoded, _MAX_DEPTH):
        raise _Malformed("its body is nested too deeply")
    return decoded


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(part, levels - 1) for part in parts)


def _job(decoded: object) -> list[Any]:
    if not isinstance(decoded, list) or len(decoded) != 3:
        raise _Malformed("its body is not [args, kwargs, embed]")
    args, kwargs, embed = decoded
    if not (isinstance(args, list) and isinstance(kwargs, dict) and isinstance(embed, dict | None)):
        raise _Malformed("its body is not [list, object, object]")
    return args[:1] or ([kwargs.get("job", kwargs)] if kwargs else [])


def _rewrite(
    message: Mapping[str, Any], headers: Mapping[str, Any], job: list[Any], id: str | None, queue: str
) -> bytes:
    task, retries = headers.get("task"), headers.get("retries")
    if task != TASK:
        named = f" {task}" if isinstance(task, str) and _TASK_NAME.fullmatch(task) else ""
        raise _Malformed(f"the task{named} is unknown" if task else "it names no task")
    if id is None:
        raise _Malformed("its task id cannot be a job's")
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
