"""Counts the rows of a source ahead, without checking them: for progress and predictions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from io import BufferedReader

from producer.inputs.csv_files import count_records
from producer.inputs.files import Input
from producer.inputs.folders import image_paths
from producer.inputs.source import Source

_PIECE_BYTES = 2**20

#: seconds for which the end of the thread is awaited; it may be reading a slow disk
_STOP_S = 1.0


class RowCount:
    """Counts in a thread; `rows` is None until all are counted, and if a pipe or a damaged file cannot be."""

    def __init__(self, source: Source) -> None:
        self.rows: int | None = None
        self._source = source
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="row-count", daemon=True)

    def start(self) -> None:
        """Begin, unless an input can be read only once."""
        if all(each.rest is None for each in self._source.inputs):
            self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Let the thread end, counted or not."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        # whoever reads the rows says what is wrong with them
        try:
            self.rows = self._count()
        except Exception:
            self.rows = None

    def _count(self) -> int | None:
        total = 0
        for input in self._source.inputs:
            for count in _counts(input, self._source):
                total += count
                if self._stopped.is_set():
                    return None
        return total


def _counts(input: Input, source: Source) -> Iterator[int]:
    questions = max(1, len(source.questions))
    if source.form == "images":
        yield from (questions for _ in image_paths(input))
    elif source.form == "parquet":
        from pyarrow import parquet

        yield questions * int(parquet.read_metadata(input.name).num_rows)
    elif source.form == "csv":
        yield from (questions * count for count in count_records(input, source))
    else:
        with input.open() as stream:
            yield from _count_lines(stream)


def _count_lines(stream: BufferedReader) -> Iterator[int]:
    """Yield 1 for each line that is not blank; memory holds a piece of a long one."""
    blank = True
    while piece := stream.readline(_PIECE_BYTES):
        blank = blank and piece.isspace()
        if not piece.endswith(b"\n"):
            yield 0
            continue
        yield not blank
        blank = True
    yield not blank
