"""OUT's companion, OUT.batch: which batch OUT belongs to, there before anything is sent; and who writes OUT now."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from producer.bulk.output.files import sync_folder
from producer.client.batches import new_id
from vqa.errors import SettingsError

#: more than a record ever has
_MOST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of a batch. Times in seconds since 1970, by this machine."""

    batch: str
    #: the inputs, absolute; - is standard input
    input: tuple[str, ...]
    form: str
    created: float
    #: when its own time (`--within`) began
    began: float
    #: of the workers that were seen, by name: for whoever sums up later
    slots: Mapping[str, int] = field(default_factory=dict)
    #: where rows without an answer go, from OUT's folder; None where that is not remembered
    errors: str | None = None

    @classmethod
    def new(cls, input: Sequence[str], form: str, errors: str | None = None) -> Self:
        """Of a batch that begins now."""
        now = time.time()
        return cls(new_id(), tuple(input), form, now, now, errors=errors)


class Sidecar:
    """Held by one process at a time, until it is closed or ends. Raises SettingsError where another one holds it."""

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
                raise SettingsError(f"another `vqa submit` is writing {self._out}; wait for its end") from None
            # another run may have removed it between the two
            if self._is_at(descriptor):
                return descriptor
            os.close(descriptor)

    def _is_at(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def read(self) -> Record | None:
        """What it says; None where it is new, or was never written whole: then nothing was sent."""
        try:
            # a shorter record may have the end of a longer one behind it
            line = os.pread(self._descriptor, _MOST_BYTES, 0).split(b"\n", 1)[0]
            fields = json.loads(line)
            # a later release may remember more
            known = {name: value for name, value in fields.items() if name in Record.__dataclass_fields__}
            return Record(**{**known, "input": tuple(fields["input"])})
        except (ValueError, TypeError, KeyError):
            return None

    def write(self, record: Record) -> None:
        """Remember this, durably."""
        data = json.dumps(asdict(record)).encode() + b"\n"
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))
        os.fsync(self._descriptor)
        sync_folder(self.path)

    def remove(self) -> None:
        """Nothing was sent, so there is nothing to remember; what cannot be read is left to whoever wrote it."""
        if self.read() is not None or not os.fstat(self._descriptor).st_size:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others write OUT."""
        os.close(self._descriptor)
