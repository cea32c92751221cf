"""OUT.batch, written beside OUT before the first job is sent: it names OUT's batch and locks OUT for one writer."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from producer.bulk.output.files import sync_folder
from producer.client.batches import new_id
from vqa.errors import SettingsError

#: larger than any record
_MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """What a later run needs to know about the batch. Times are seconds since 1970 on this machine's clock."""

    batch: str
    #: absolute paths of the inputs; - is standard input
    input: tuple[str, ...]
    form: str
    created: float
    #: start of the `--within` period
    began: float
    #: slots by worker name, of all workers seen so far; the summary's GPU seconds need them
    slots: Mapping[str, int] = field(default_factory=dict)
    #: path of ERR relative to OUT's folder; None if an older release wrote the record
    errors: str | None = None
    #: path of REVIEW relative to OUT's folder, and the probability below which rows go there; None without one
    review: str | None = None
    review_below: float | None = None

    @classmethod
    def create(cls, input: Sequence[str], form: str, **about: Any) -> Self:
        """Create the record of a new batch that starts now."""
        now = time.time()
        return cls(new_id(), tuple(input), form, now, now, **about)


class Sidecar:
    """OUT.batch, locked until it is closed or the process ends.

    Raises SettingsError if another process holds the lock.
    """

    def __init__(self, out: Path) -> None:
        self.path = out.with_name(f"{out.name}.batch")
        self._out = out
        self._descriptor = self._lock()

    def _lock(self) -> int:
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise SettingsError(f"another `vqa submit` is writing {self._out}; wait until it ends") from None
            # another run may have removed the file between open and flock
            if self._is_at(descriptor):
                return descriptor
            os.close(descriptor)

    def _is_at(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def read(self) -> BatchRecord | None:
        """Read the record; return None if it is missing or incomplete, in which case nothing was sent."""
        try:
            # the end of a longer, older record may follow the newline
            line = os.pread(self._descriptor, _MAX_BYTES, 0).split(b"\n", 1)[0]
            fields = json.loads(line)
            # ignore fields of later releases
            known = {name: value for name, value in fields.items() if name in BatchRecord.__dataclass_fields__}
            # an older release wrote "pictures"
            form = "images" if fields["form"] == "pictures" else fields["form"]
            return BatchRecord(**{**known, "form": form, "input": tuple(fields["input"])})
        except (ValueError, TypeError, KeyError):
            return None

    def write(self, record: BatchRecord) -> None:
        """Write the record durably."""
        data = json.dumps(asdict(record)).encode() + b"\n"
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))
        os.fsync(self._descriptor)
        sync_folder(self.path)

    def remove(self) -> None:
        """Delete the file because nothing was sent; content that is not a record is left alone."""
        if self.read() is not None or not os.fstat(self._descriptor).st_size:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._descriptor)
