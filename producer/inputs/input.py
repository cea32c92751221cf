"""One input of a submission, as the user named it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from typing import Literal

from producer.inputs.files import DAMAGE, unpacked
from vqa.errors import SettingsError

#: how an input is written; openai: OpenAI Batch; short: {"id", "image", "question"} a line
Form = Literal["openai", "short", "csv", "parquet", "pictures"]

_PACKED = (".gz", ".gzip", ".zst", ".zstd")


@dataclass(frozen=True, slots=True)
class Input:
    """One file, folder or glob."""

    #: as the user wrote it; - is standard input
    name: str
    #: absolute; relative pictures are found from here
    folder: str
    #: of a pipe or standard input, which can be read once: what is still to be read, uncompressed
    rest: BufferedReader | None = field(default=None, repr=False, compare=False)
    #: what is closed in the end; standard input is not
    pipe: BufferedReader | None = field(default=None, repr=False, compare=False)

    @contextmanager
    def open(self) -> Iterator[BufferedReader]:
        """The file, uncompressed; of a pipe what is left of it. Raises SettingsError."""
        with ExitStack() as stack:
            if self.rest is None:
                yield _begun(self.name, stack.enter_context(open_file(self.name)))
                return
            if self.pipe is not None:
                stack.enter_context(self.pipe)
            yield self.rest


def open_file(name: str) -> BufferedReader:
    """The file or pipe, which the caller closes. Raises SettingsError."""
    try:
        return BufferedReader(FileIO(name))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{name}: {getattr(error, 'strerror', None) or error}") from None


def suffix(name: str) -> str:
    """What a file's name ends in, in small letters, without what says that it is compressed."""
    base, last = os.path.splitext(name.lower())
    return os.path.splitext(base)[1] if last in _PACKED else last


def _begun(name: str, file: BufferedReader) -> BufferedReader:
    try:
        return unpacked(file)
    except DAMAGE as error:
        raise SettingsError(f"{name} cannot be read: {error}") from None
