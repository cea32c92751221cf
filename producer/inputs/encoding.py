"""UTF-16 inputs, as Excel's "Unicode text" and Windows programs write them, read as UTF-8."""

from __future__ import annotations

import codecs
from io import BufferedReader

from producer.inputs.compression import reader_of


def as_utf8(stream: BufferedReader) -> BufferedReader:
    """Return a reader of the stream's text in UTF-8, if it begins with the byte order mark of UTF-16.

    Reads raise UnicodeError, one of DAMAGE, where the text is not UTF-16.
    """
    if stream.peek(2)[:2] not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return stream
    # half a surrogate pair becomes bytes that are not UTF-8, which spoil their line alone
    decoder = codecs.getincrementaldecoder("utf-16")("surrogatepass")

    def more(size: int) -> bytes:
        while data := stream.read1(size):
            if text := decoder.decode(data):
                return text.encode("utf-8", "surrogatepass")
        decoder.decode(b"", final=True)
        return b""

    return reader_of(more)
