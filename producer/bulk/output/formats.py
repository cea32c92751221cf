"""Formats of output lines: OpenAI's Batch output and the short form.

OpenAI's: `{"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error": null}`, or `response` null
and `error` an object `{"code", "message", "line"}`. Short: `{"id": CUSTOM_ID, "answer", ..., "job": JOB_ID}`, or
`{"id", "error": {"code", "message"}, "job"}`. Both contain the job's id, by which a later run recognises the row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from producer.openai.chat_completion import chat_completion, parse_usage
from vqa.answer import Answer, Timings, Usage


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row has no answer."""

    code: str
    message: str
    #: line of the input, from 1
    number: int
    #: whether the row itself is invalid, so that no job was sent
    bad_row: bool = False


@dataclass(frozen=True, slots=True)
class LineSummary:
    """The parts of an output line that a resumed run and the final summary need."""

    #: job id
    id: str
    #: error code; None for an answer
    code: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    worker: str = ""
    reused: bool = False
    #: None of failures that were not read back from a file
    custom_id: str | None = None
    #: whether an image is an animation, of which the model saw the first frame alone
    is_partial: bool = False

    @classmethod
    def from_answer(cls, answer: Answer, custom_id: str | None) -> LineSummary:
        is_partial = any(image.frames > 1 for image in answer.images)
        return cls(answer.id, None, answer.usage, answer.timings, answer.worker, answer.reused, custom_id, is_partial)


class LineFormat(Protocol):
    """Builds output lines and parses them."""

    def answer(self, custom_id: str | None, answer: Answer) -> dict[str, Any]: ...

    def failure(self, id: str, custom_id: str | None, failure: Failure) -> dict[str, Any]: ...

    def parse(self, line: Mapping[str, Any]) -> LineSummary:
        """Raises KeyError, TypeError, AttributeError or ValidationError if the line has another format."""
        ...


class OpenAIFormat:
    """The output format of OpenAI's Batch API."""

    def answer(self, custom_id: str | None, answer: Answer) -> dict[str, Any]:
        response = {"status_code": 200, "request_id": answer.id, "body": chat_completion(answer)}
        return {"id": answer.id, "custom_id": custom_id, "response": response, "error": None}

    def failure(self, id: str, custom_id: str | None, failure: Failure) -> dict[str, Any]:
        error = {"code": failure.code, "message": failure.message, "line": failure.number}
        return {"id": id, "custom_id": custom_id, "response": None, "error": error}

    def parse(self, line: Mapping[str, Any]) -> LineSummary:
        if line["error"] is not None:
            return LineSummary(line["id"], str(line["error"]["code"]), custom_id=line["custom_id"])
        body, extra = line["response"]["body"], line["response"]["body"]["vqa"]
        usage, timings = parse_usage(body["usage"]), Timings.model_validate(extra["timings"])
        reused, is_partial = extra.get("reused", False), _is_partial(extra)
        return LineSummary(line["id"], None, usage, timings, extra["worker"], reused, line["custom_id"], is_partial)


class ShortFormat:
    """One flat object per row."""

    _FIELDS = frozenset(
        {
            *("finish_reason", "usage", "timings", "model", "parsed", "reasoning", "images", "reused", "filtered"),
            *("label", "choices", "logprobs", "alternatives"),
        }
    )

    def answer(self, custom_id: str | None, answer: Answer) -> dict[str, Any]:
        fields = answer.model_dump(mode="json", include=set(self._FIELDS), exclude_none=True)
        for name in ("reused", "filtered", "alternatives"):
            if not fields[name]:
                del fields[name]
        return {"id": custom_id, "answer": answer.text} | fields | {"worker": answer.worker, "job": answer.id}

    def failure(self, id: str, custom_id: str | None, failure: Failure) -> dict[str, Any]:
        message = f"line {failure.number}: {failure.message}" if failure.bad_row else failure.message
        return {"id": custom_id, "error": {"code": failure.code, "message": message}, "job": id}

    def parse(self, line: Mapping[str, Any]) -> LineSummary:
        if "error" in line:
            return LineSummary(line["job"], str(line["error"]["code"]), custom_id=line["id"])
        usage, timings = Usage.model_validate(line["usage"]), Timings.model_validate(line["timings"])
        reused, is_partial = line.get("reused", False), _is_partial(line)
        return LineSummary(line["job"], None, usage, timings, line["worker"], reused, line["id"], is_partial)


def _is_partial(answer: Mapping[str, Any]) -> bool:
    # lines of earlier releases have no images
    return any(image["frames"] > 1 for image in answer.get("images", ()))


def encode(line: Mapping[str, Any]) -> bytes:
    """Encode a line, with its newline."""
    # half a surrogate pair, from an input that is not UTF-8, cannot be encoded
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def parse_line(format: LineFormat, line: bytes) -> LineSummary | None:
    """Parse a line of OUT or ERR; return None if `vqa submit` did not write it in this format."""
    try:
        summary = format.parse(json.loads(line))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, ValidationError):
        return None
    return summary if isinstance(summary.id, str) else None
