"""What is written of a row, and read back of it: OpenAI's Batch output, or the short form's own lines.

OpenAI's: `{"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error": null}`, or with `response`
null and `error` as `{"code", "message", "line"}`. The short form's: `{"id": CUSTOM ID, "answer", ..., "job": ID}`, or
`{"id", "error": {"code", "message"}, "job"}`. In both, the job's id is what a later run knows the row by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from producer.openai.chat_completion import chat_completion
from vqa.answer import Answer, Timings, Usage


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row has no answer."""

    code: str
    message: str
    #: of the input's line, from 1
    number: int
    #: whether the line itself is at fault: it was no job
    bad_row: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What a line says of a row, as far as it is summed up."""

    #: the job's
    id: str
    #: None for an answer
    code: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    worker: str = ""
    reused: bool = False
    #: where the line was read back
    custom_id: str | None = None

    @classmethod
    def by(cls, answer: Answer) -> Told:
        """What an answer's line will say."""
        return cls(answer.id, None, answer.usage, answer.timings, answer.worker, answer.reused)


class Form(Protocol):
    """How lines look."""

    def answered(self, custom_id: str | None, answer: Answer) -> dict[str, Any]:
        """The line of an answer."""
        ...

    def failed(self, id: str, custom_id: str | None, failure: Failure) -> dict[str, Any]:
        """The line of a row without one."""
        ...

    def told(self, line: Mapping[str, Any]) -> Told:
        """What such a line says. Raises KeyError, TypeError, AttributeError or ValidationError where it is none."""
        ...


class OpenAI:
    """As OpenAI writes the output of a batch."""

    def answered(self, custom_id: str | None, answer: Answer) -> dict[str, Any]:
        """The body is a chat completion."""
        response = {"status_code": 200, "request_id": answer.id, "body": chat_completion(answer)}
        return {"id": answer.id, "custom_id": custom_id, "response": response, "error": None}

    def failed(self, id: str, custom_id: str | None, failure: Failure) -> dict[str, Any]:
        """`line` is the input's."""
        error = {"code": failure.code, "message": failure.message, "line": failure.number}
        return {"id": id, "custom_id": custom_id, "response": None, "error": error}

    def told(self, line: Mapping[str, Any]) -> Told:
        """See `Form`."""
        if line["error"] is not None:
            return Told(line["id"], str(line["error"]["code"]), custom_id=line["custom_id"])
        body, about = line["response"]["body"], line["response"]["body"]["vqa"]
        usage, timings = Usage.model_validate(body["usage"]), Timings.model_validate(about["timings"])
        reused = about.get("reused", False)
        return Told(line["id"], None, usage, timings, about["worker"], reused, line["custom_id"])


class Short:
    """One flat object a row."""

    _PARTS = frozenset({"finish_reason", "usage", "timings", "model", "parsed", "reused"})

    def answered(self, custom_id: str | None, answer: Answer) -> dict[str, Any]:
        """The answer's text, and how it came to be."""
        about = answer.model_dump(mode="json", include=set(self._PARTS), exclude_none=True)
        if not answer.reused:
            del about["reused"]
        return {"id": custom_id, "answer": answer.text} | about | {"worker": answer.worker, "job": answer.id}

    def failed(self, id: str, custom_id: str | None, failure: Failure) -> dict[str, Any]:
        """Its code and message."""
        message = f"line {failure.number}: {failure.message}" if failure.bad_row else failure.message
        return {"id": custom_id, "error": {"code": failure.code, "message": message}, "job": id}

    def told(self, line: Mapping[str, Any]) -> Told:
        """See `Form`."""
        if "error" in line:
            return Told(line["job"], str(line["error"]["code"]), custom_id=line["id"])
        usage, timings = Usage.model_validate(line["usage"]), Timings.model_validate(line["timings"])
        return Told(line["job"], None, usage, timings, line["worker"], line.get("reused", False), line["id"])


def encode(line: Mapping[str, Any]) -> bytes:
    """The line's bytes, with its end."""
    # half a surrogate pair, from an input that was not UTF-8, cannot be written
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def read_back(form: Form, line: bytes) -> Told | None:
    """What a line of OUT says; None where no run of ours wrote it so."""
    try:
        told = form.told(json.loads(line))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, ValidationError):
        return None
    return told if isinstance(told.id, str) else None
