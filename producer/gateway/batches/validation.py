"""Checks a whole input before its first row is sent, as OpenAI does: one invalid line fails the batch.

A row whose own request is wrong, such as one whose image is no image, fails alone and is in the error file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from producer.gateway.batches.lines import Line
from producer.gateway.batches.record import LineError
from producer.gateway.errors import InvalidRequest
from producer.gateway.http.body import parse_json
from producer.inputs.jsonl import MAX_LINE_BYTES
from producer.inputs.row import require_id
from vqa.errors import InvalidJob

#: rows of one batch
MOST_ROWS = 1_000_000
#: errors that are told
MOST_ERRORS = 100

_BOM = b"\xef\xbb\xbf"


def decode_line(line: Line) -> dict[str, Any]:
    """Return the JSON object of a line. Raises InvalidJob."""
    if line.data is None:
        raise InvalidJob(f"longer than {MAX_LINE_BYTES:,} bytes")
    try:
        document = parse_json(line.data.removeprefix(_BOM) if line.number == 1 else line.data)
    except InvalidRequest:
        raise InvalidJob("not valid JSON in UTF-8, or has too many values") from None
    if not isinstance(document, dict):
        raise InvalidJob("not a JSON object")
    return document


class InputCheck:
    """Checks the lines of one input, page by page."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        # 64-bit hashes only
        self._ids: set[int] = set()
        self.total = 0
        self.model: str | None = None
        self.errors: list[LineError] = []

    @property
    def is_hopeless(self) -> bool:
        return len(self.errors) >= MOST_ERRORS

    def check(self, page: Sequence[Line]) -> None:
        """Check further lines. Takes about 1 ms per 500 kB; an event loop calls it in a thread."""
        for line in page:
            self.total += 1
            error = self._error(line)
            if error is not None and not self.is_hopeless:
                self.errors.append(error)
        if self.total > MOST_ROWS:
            self.errors = [LineError("too_many_tasks", f"a batch has at most {MOST_ROWS:,} requests")] * MOST_ERRORS

    def finish(self) -> list[LineError]:
        """Return the errors of the whole input."""
        if not self.total:
            return [LineError("empty_file", "the input file has no requests")]
        return list(dict.fromkeys(self.errors))

    def _error(self, line: Line) -> LineError | None:
        try:
            row = decode_line(line)
        except InvalidJob as error:
            return LineError("invalid_json_line", f"this line is {error}", None, line.number)
        for name in ("custom_id", "method", "url", "body"):
            if row.get(name) in (None, ""):
                return LineError("missing_required_parameter", f"{name}: missing", name, line.number)
        try:
            custom_id = require_id(row["custom_id"], "custom_id")
        except InvalidJob as error:
            return LineError("invalid_value", str(error), "custom_id", line.number)
        if hash(custom_id) in self._ids:
            said = "an earlier line has the same custom_id"
            return LineError("duplicate_custom_id", said, "custom_id", line.number)
        self._ids.add(hash(custom_id))
        return self._request_error(row, line.number)

    def _request_error(self, row: Mapping[str, Any], number: int) -> LineError | None:
        if row["method"] != "POST":
            return LineError("invalid_method", "method: must be POST", "method", number)
        if row["url"] != self._endpoint:
            said = f"url: must be the batch's endpoint, {self._endpoint}"
            return LineError("url_mismatch", said, "url", number)
        if not isinstance(row["body"], dict):
            return LineError("invalid_value", "body: must be an object", "body", number)
        model = row["body"].get("model")
        if self.model is None and isinstance(model, str):
            self.model = model[:256]
        return None
