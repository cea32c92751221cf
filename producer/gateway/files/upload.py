"""A multipart body with one file, whose content is passed on as it arrives."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from producer.gateway.errors import BodyTooLarge, InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

#: bytes of a field that is no file, and how many parts there may be: each costs the event loop about 50 us
_FIELD_BYTES = 4096
_PARTS = 20
#: characters of a file's name that are kept
_NAME_LENGTH = 255


class Upload:
    """Reads the body once: `fields` and `filename` are complete when `content` has ended. Raises InvalidRequest."""

    def __init__(self, content_type: str, body: AsyncIterable[bytes], max_bytes: int) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequest("the body must be multipart/form-data with a boundary, as `curl -F` sends it")
        self._body = body
        self._max_bytes = max_bytes
        self.fields: dict[str, str] = {}
        #: None until the file's part has begun
        self.filename: str | None = None
        self._name = ""
        self._parts = 0
        self._in_file = self._ended = False
        self._value = bytearray()
        self._header = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        #: the file's bytes in the chunk that is parsed
        self._found: list[bytes] = []
        try:
            self._parser = MultipartParser(boundary, self._callbacks())
        except FormParserError:
            raise InvalidRequest("the multipart boundary is not valid") from None

    async def content(self) -> AsyncIterator[bytes]:
        """Yield the file's bytes. Raises InvalidRequest, BodyTooLarge, and what the body's stream raises."""
        size = 0
        async for chunk in self._body:
            try:
                self._parser.write(chunk)
            except FormParserError:
                raise InvalidRequest("the body is no valid multipart/form-data") from None
            for data in self._found:
                size += len(data)
                if size > self._max_bytes:
                    raise BodyTooLarge(f"file: it has more than {self._max_bytes:,} bytes (VQA_FILES_MAX_BYTES)")
                yield data
            self._found.clear()
        if not self._ended:
            raise InvalidRequest("the multipart body ends before its last boundary")
        if self.filename is None:
            raise InvalidRequest("file: this field is required", param="file")

    def _callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _PARTS:
            raise InvalidRequest("the form has too many fields")
        self._disposition, self._value = b"", bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header, self._header_value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = b"filename" in options
        if not self._in_file:
            return
        if self._name != "file" or self.filename is not None:
            raise InvalidRequest("only one file is allowed, in the field `file`", param="file")
        name = options[b"filename"].decode("utf-8", "replace")
        self.filename = "".join(each for each in name if each.isprintable())[:_NAME_LENGTH] or "upload"

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._found.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _FIELD_BYTES:
            raise InvalidRequest(f"a field of the form has more than {_FIELD_BYTES:,} bytes")

    def _end(self) -> None:
        if not self._in_file:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _finish(self) -> None:
        self._ended = True
