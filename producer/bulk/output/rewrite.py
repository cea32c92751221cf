"""Rewrite a file of lines without some of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from producer.bulk.output.files import FLUSH_BYTES, LineFile, replace
from producer.bulk.output.formats import LineSummary


def rewrite(file: LineFile, parse: Callable[[bytes], LineSummary | None], keep: Callable[[LineSummary], bool]) -> None:
    """Keep the lines that `parse` knows and `keep` selects; if the process dies, the old file is intact."""
    # replace the target of a link, not the link
    path = file.path.resolve()
    temporary = path.with_name(f".{path.name}.new")
    lines: list[bytes] = []
    size = 0
    with file.codec.open(path) as old, temporary.open("wb") as new:
        for line in old:
            summary = parse(line)
            if summary is None or not keep(summary):
                continue
            lines.append(line)
            size += len(line)
            if size >= FLUSH_BYTES:
                new.write(file.codec.compress(b"".join(lines)))
                lines, size = [], 0
        if lines:
            new.write(file.codec.compress(b"".join(lines)))
    shutil.copymode(path, temporary)
    replace(path, temporary)
