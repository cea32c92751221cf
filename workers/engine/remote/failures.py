"""Why a server did not answer a request, and what follows from it.

    Failure
    ├── Busy       it has too much to do: ask later, or another one
    ├── Away       it cannot be reached: ask another one
    ├── Refusal    it will not answer this worker before something is mended: the key, the model's name
    │   └── Forbidden    or it is this request that it will not answer, as a firewall before it may say
    └── Broken     it failed on this request: its own fault or the request's

What is wrong with the request itself is an InvalidJob or a PromptTooLong. No message quotes what a server says, since
servers quote questions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vqa.errors import InvalidJob, PromptTooLong, VQAError
from vqa.net.retry_after import retry_after_s


class Failure(Exception):
    """A server did not answer a request."""


class Busy(Failure):
    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        #: what the server asks for
        self.pause_s = pause_s


class Away(Failure):
    pass


class Refusal(Failure):
    pass


class Forbidden(Refusal):
    pass


class Broken(Failure):
    pass


_CLIENT_ERROR, _SERVER_ERROR = 400, 500
_FORBIDDEN, _TOO_LARGE = 403, 413

_BUSY = frozenset({429, 503})
_REFUSED = frozenset({401, 402, 404, 405})
#: statuses of 4xx that do not say that the request is wrong
_TEMPORARY = frozenset({408, 409, 425, 499})

#: codes of errors that are the account's, whatever their status
_ACCOUNT = frozenset({"invalid_api_key", "insufficient_quota", "Arrearage", "model_not_found", "AccessDenied"})

#: what a code may look like, to be repeated in a message
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.\[\]-]{0,63}")

#: how servers say that a prompt is too long: OpenAI and vLLM, SGLang, llama.cpp, DashScope, this project
_TOO_LONG = re.compile(
    r"context[_ ](length|size|window)|maximum model length|max_model_len|prompt_too_long"
    r"|longer than the model|range of input length|too long after expanding",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    r"(?:context (?:length|size)|model length)[^0-9.]{0,24}?\(?(\d+)|exceed the (\d+) tokens of a slot|=> \d+ >= (\d+)",
    re.IGNORECASE,
)
#: of the prompt and its answer, and of the prompt alone. What vLLM calls "at least" says only that there are too many.
_WANTED = re.compile(r"requested (\d+) tokens|requested a total of (\d+)", re.IGNORECASE)
_PROMPT = re.compile(
    r"input \((\d+) tokens|prompt \(length (\d+)|request \((\d+) tokens|=> (\d+) >= \d+", re.IGNORECASE
)
_EXCESS = re.compile(r"\) by (\d+);")


def failure_of(
    status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, answer_tokens: int = 0
) -> Failure | VQAError:
    """Return what a response other than 200 means, to a request for an answer of at most so many tokens."""
    error = _error_of(body)
    code = _code(error)
    said = f"status {status}" + (f", {code}" if code else "")
    if code in _ACCOUNT or status in _REFUSED or status < _CLIENT_ERROR:
        return Refusal(said)
    if status == _FORBIDDEN:
        return Forbidden(said)
    if status in _BUSY:
        return Busy(said, retry_after_s(headers) or 0.0)
    if status >= _SERVER_ERROR or status in _TEMPORARY:
        return Broken(said)
    if _TOO_LONG.search(f"{error.get('message')} {code}"):
        return _too_long(str(error.get("message")), answer_tokens)
    if status == _TOO_LARGE:
        return InvalidJob("the server takes no request as large as this one (413): send fewer or smaller images")
    return InvalidJob(f"the server refuses the request ({said}{_param(error)})")


def failure_in_stream(error: Any, answer_tokens: int = 0) -> Failure | VQAError:
    """Return what an error means that comes in a stream, after the status 200."""
    error = error if isinstance(error, Mapping) else {}
    status = error.get("code")
    if isinstance(status, int) and status >= _CLIENT_ERROR:
        return failure_of(status, (), json.dumps({"error": error}).encode(), answer_tokens)
    if error.get("type") == "invalid_request_error" and _code(error) not in {"cancelled", "unknown_job"}:
        return failure_of(_CLIENT_ERROR, (), json.dumps({"error": error}).encode(), answer_tokens)
    return Broken("an error in the stream" + (f", {code}" if (code := _code(error)) else ""))


def _error_of(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    # vLLM's former form has the fields of the error at the top
    error = found.get("error", found) if isinstance(found, Mapping) else {}
    return error if isinstance(error, Mapping) else {"message": error}


def _code(error: Mapping[str, Any]) -> str:
    names = (error.get("code"), error.get("type"))
    return next((name for name in names if isinstance(name, str) and _CODE.fullmatch(name)), "")


def _param(error: Mapping[str, Any]) -> str:
    param = error.get("param")
    return f", about {param}" if isinstance(param, str) and _CODE.fullmatch(param) else ""


def _too_long(message: str, answer_tokens: int) -> PromptTooLong:
    limit, wanted, excess = (_number(pattern, message) for pattern in (_LIMIT, _WANTED, _EXCESS))
    if (prompt := _number(_PROMPT, message)) is not None:
        wanted = prompt + answer_tokens
    if limit is not None and excess is not None:
        wanted = limit + excess
    if limit is None or wanted is None or wanted <= limit:
        return PromptTooLong("the prompt and its answer are longer than the server's model allows")
    error = PromptTooLong(f"the prompt and its answer need {wanted} tokens, and the server's model has {limit}")
    error.excess, error.limit = wanted - limit, limit
    return error


def _number(pattern: re.Pattern[str], message: str) -> int | None:
    found = pattern.search(message)
    # a number of more digits than a context has is no number of tokens
    return next((int(each) for each in found.groups() if each and len(each) < 10), None) if found else None
