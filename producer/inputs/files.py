"""Input files, folders, globs and pipes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from typing import Literal

from producer.inputs.compression import DAMAGE, decompressed
from producer.inputs.encoding import as_utf8
from vqa.errors import SettingsError

#: form of an input: openai is OpenAI Batch; short is {"id", "image", "question"} per line
Form = Literal["openai", "short", "csv", "parquet", "images"]

_COMPRESSED = (".gz", ".gzip", ".zst", ".zstd")


@dataclass(frozen=True, slots=True)
class Input:
    """One file, folder, glob or pipe."""

    #: as the user wrote it; - is standard input
    name: str
    #: absolute path that relative image paths start from
    folder: str
    #: the uncompressed rest of a pipe or standard input, which can be read only once
    rest: BufferedReader | None = field(default=None, repr=False, compare=False)
    #: the pipe to close at the end; None for standard input
    pipe: BufferedReader | None = field(default=None, repr=False, compare=False)

    @contextmanager
    def open(self) -> Iterator[BufferedReader]:
        """Open the uncompressed content, as UTF-8 if it is UTF-16. Raises SettingsError if it cannot be read."""
        with ExitStack() as stack:
            if self.rest is not None:
                if self.pipe is not None:
                    stack.enter_context(self.pipe)
                yield self.rest
                return
            file = stack.enter_context(open_file(self.name))
            try:
                content = as_utf8(decompressed(file, self.name))
            except DAMAGE as error:
                raise SettingsError(f"cannot read {self.name}: {error}") from None
            yield content


def open_file(name: str) -> BufferedReader:
    """Open a file or pipe; - is standard input. Raises SettingsError if it cannot be opened."""
    try:
        # not sys.stdin, whose lock a thread that reads would hold when the interpreter ends, which aborts it
        return BufferedReader(FileIO(0, closefd=False) if name == "-" else FileIO(name))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{name}: {getattr(error, 'strerror', None) or error}") from None


def file_suffix(name: str) -> str:
    """Return the lower-case suffix of a file name, without that of its compression."""
    base, last = os.path.splitext(name.lower())
    return os.path.splitext(base)[1] if last in _COMPRESSED else last
