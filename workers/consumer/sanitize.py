"""What Celery's lists hold, sifted before Celery sees it: one malformed message would end every worker that pops it.

Anybody who may write to Redis may write anything there. What is good is written anew with what we honour and nothing
else, each of the type that celery 5.7 and kombu 5.7 take for granted: retries, `expires` (as the job's timeout) and the
job. Links, chains, chords, groups, stamps and Celery's time limits are not followed, nor is `eta`: a worker would pull
every such message into its memory. No I/O.
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

#: a larger message is not looked into; a job's images, in base64, are well below
MOST_BYTES = 128 * 2**20

#: a job needs eight levels; Celery decodes at another depth of the stack, where more may fail
_DEEPEST = 32

#: a timeout that is over when the ledger, which counts milliseconds, has the job
_OVER_S = 0.0001

_ID = re.compile(ID_PATTERN)
#: names that may be said; anything else may be a user's words
_TASK_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,63}")
_ENCODINGS = (None, "utf-8", "utf8", "us-ascii", "ascii")

#: bodies of our own wake-ups, as kombu encodes them and as they are when a worker put them back
_WAKE_UPS = (base64.b64encode(BODY.encode()).decode(), BODY)


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that no worker can use."""

    #: holds no word of the message but a task's name
    reason: str
    #: the job's, where it has one that can be used
    id: str | None = None


class _Flaw(Exception):
    """What is wrong, in words that may be shown."""


def sift(raw: bytes, queue: str) -> bytes | Malformed:
    """What BRPOP gave from the list `queue`, made safe for Celery, or what is wrong with it. Never raises.

    The delivery tag is drawn here: whoever had this message before cannot acknowledge it, and copies do not share one.
    """
    id = None
    try:
        message = _envelope(raw)
        headers = _mapping(message, "headers")
        id = usable_id(headers.get("id"))
        body, headers = _body(message, headers)
        id = usable_id(headers.get("id"))
        return _written(message, headers, body, id, queue)
    except _Flaw as flaw:
        return Malformed(str(flaw), id)
    except Exception as error:
        return Malformed(f"it cannot be read ({type(error).__name__})", id)


def usable_id(value: object) -> str | None:
    """`value` where it can be a job's id."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def _envelope(raw: bytes) -> dict[str, Any]:
    if len(raw) > MOST_BYTES:
        raise _Flaw(f"it is larger than {MOST_BYTES // 2**20} MiB")
    try:
        message = json.loads(raw.decode())
    except UnicodeDecodeError:
        raise _Flaw("it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise _Flaw("it is not JSON") from None
    if not isinstance(message, dict):
        raise _Flaw("it is not a JSON object")
    return message


def _mapping(message: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = message.get(name)
    if value is not None and not isinstance(value, dict):
        raise _Flaw(f"{name} is not an object")
    return value or {}


def _body(message: Mapping[str, Any], headers: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The job in a list, which is empty for a wake-up of ours, and the headers, which protocol 1 has in the body."""
    if message.get("content-type") != "application/json":
        raise _Flaw("its content type is not application/json")
    if _lower(message.get("content-encoding")) not in _ENCODINGS:
        raise _Flaw("its content encoding is not UTF-8")
    if headers.get("compression"):
        raise _Flaw("it is compressed")
    body = message.get("body")
    if body in _WAKE_UPS:
        return [], headers
    decoded = _decoded(body, _lower(_mapping(message, "properties").get("body_encoding")))
    if isinstance(decoded, dict):
        # what has headers as well is Celery's hybrid, and they go first
        headers = decoded | headers
        decoded = [decoded.get("args") or [], decoded.get("kwargs") or {}, {}]
    return _job(decoded), headers


def _decoded(body: object, encoding: object) -> Any:
    if not isinstance(body, str):
        raise _Flaw("its body is not text")
    if encoding not in ("base64", "utf-8", None):
        raise _Flaw("its body's encoding is neither base64 nor utf-8")
    try:
        # as Celery will: its own JSON has types that plain JSON has not, and refuses those that it does not know
        decoded = kombu_json.loads(base64.b64decode(body).decode() if encoding == "base64" else body)
    except (ValueError, TypeError, ArithmeticError, AttributeError, RecursionError):
        raise _Flaw("its body is not JSON") from None
    if _deeper(decoded, _DEEPEST):
        raise _Flaw("its body is nested too deeply")
    return decoded


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(part, levels - 1) for part in parts)


def _job(decoded: object) -> list[Any]:
    if not isinstance(decoded, list) or len(decoded) != 3:
        raise _Flaw("its body is not [args, kwargs, embed]")
    args, kwargs, embed = decoded
    if not (isinstance(args, list) and isinstance(kwargs, dict) and isinstance(embed, dict | None)):
        raise _Flaw("its body is not [list, object, object]")
    return args[:1] or ([kwargs.get("job", kwargs)] if kwargs else [])


def _written(
    message: Mapping[str, Any], headers: Mapping[str, Any], job: list[Any], id: str | None, queue: str
) -> bytes:
    task, retries = headers.get("task"), headers.get("retries")
    if task != TASK:
        named = f" {task}" if isinstance(task, str) and _TASK_NAME.fullmatch(task) else ""
        raise _Flaw(f"the task{named} is unknown" if task else "it names no task")
    if id is None:
        raise _Flaw("its task id cannot be a job's")
    now = datetime.now(UTC)
    _, expires = (_time(headers, name) for name in ("eta", "expires"))
    if job and expires is not None:
        job = [_expiring(job[0], (expires - now).total_seconds())]
    priority = _mapping(message, "properties").get("priority")
    kept: dict[str, Any] = {
        "lang": "py",
        "task": TASK,
        "id": id,
        "root_id": id,
        "parent_id": None,
        "ignore_result": True,
    }
    kept["retries"] = retries if type(retries) is int and 0 <= retries < 2**31 else 0
    properties = {
        "correlation_id": id,
        "delivery_tag": str(uuid.uuid4()),
        # the anonymous exchange: what is given back goes to the list that it came from
        "delivery_info": {"exchange": "", "routing_key": queue},
        "body_encoding": "utf-8",
        "priority": min(priority, 9) if type(priority) is int and priority >= 0 else 0,
    }
    safe = {
        "body": kombu_json.dumps([job, {}, {}]) if job else BODY,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": kept,
        "properties": properties,
    }
    return json.dumps(safe).encode()


def _time(headers: Mapping[str, Any], name: str) -> datetime | None:
    value = headers.get(name)
    if value is None:
        return None
    try:
        when = datetime.fromisoformat(value)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise _Flaw(f"its {name} is not a time") from None


def _expiring(job: object, remaining_s: float) -> object:
    """Celery would drop what has expired without a word; a job's own timeout says so to whoever waits."""
    if not isinstance(job, dict):
        return job
    longest_s = min(max(remaining_s, _OVER_S), LONGEST_TIMEOUT_S)
    named_s = job.get("timeout_s")
    if isinstance(named_s, int | float) and not named_s > longest_s:
        return job
    return job | {"timeout_s": longest_s}
