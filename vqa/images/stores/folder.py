"""Images in a folder, which producers and workers share.

Plain files, so that it needs no extra, and works in a forked child, where obstore waits for ever, for a folder, too.
"""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vqa.errors import SettingsError
from vqa.images.stores.contents import StoreFull, StoreUnavailable

#: where files lie while they are written
_PARTIAL = "partial"

#: seconds after which such a file is a dead writer's
_ABANDONED_S = 3600.0

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Folder:
    """Blobs under one folder, which is made if it is missing. Raises SettingsError if it cannot be."""

    def __init__(self, path: str) -> None:
        self._root = Path(path)
        try:
            (self._root / _PARTIAL).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            # a worker needs to read only
            if not self._root.is_dir():
                raise SettingsError(f"VQA_IMAGES_URL: cannot make the folder {path}: {error.strerror}") from None

    def put(self, name: str, data: bytes) -> None:
        partial = self._root / _PARTIAL / uuid.uuid4().hex
        with _folder_errors():
            try:
                partial.parent.mkdir(exist_ok=True)
                with open(partial, "xb") as file:
                    file.write(data)
                    file.flush()
                    # else a power cut may leave an empty file under the name
                    os.fsync(file.fileno())
                (self._root / name).parent.mkdir(exist_ok=True)
                os.replace(partial, self._root / name)
            except BaseException:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise

    def get(self, name: str) -> bytes | None:
        with _folder_errors():
            try:
                return (self._root / name).read_bytes()
            except FileNotFoundError:
                self._require_root()
                return None

    def size(self, name: str) -> int | None:
        with _folder_errors():
            try:
                return (self._root / name).stat().st_size
            except FileNotFoundError:
                self._require_root()
                return None

    def _require_root(self) -> None:
        """Raise OSError unless the folder is there: while a file server is not mounted, no image is missing."""
        self._root.stat()

    def delete(self, name: str) -> None:
        with _folder_errors(), suppress(FileNotFoundError):
            (self._root / name).unlink()

    def tidy(self) -> None:
        with _folder_errors(), suppress(FileNotFoundError), os.scandir(self._root / _PARTIAL) as entries:
            for entry in entries:
                # another's that may not be deleted keeps no others
                with suppress(FileNotFoundError, PermissionError):
                    if time.time() - entry.stat().st_mtime > _ABANDONED_S:
                        os.unlink(entry.path)


@contextmanager
def _folder_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        if error.errno in _FULL:
            raise StoreFull(f"the folder of images (VQA_IMAGES_URL) is full: {reason}") from error
        raise StoreUnavailable(f"the folder of images (VQA_IMAGES_URL) failed: {reason}") from error
